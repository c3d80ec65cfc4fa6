//! The URLs of PostgreSQL servers as people write them. Pure.
//!
//! The parameters about TLS are those of libpq, of which the driver knows only some; see
//! <https://www.postgresql.org/docs/current/libpq-connect.html>. URLs of `SQLAlchemy` and of JDBC
//! differ in scheme and some parameters. Errors name the part that is at fault. They quote nothing
//! that may be a part of the password.

use std::{fmt::Write as _, str::FromStr as _};

use tokio_postgres::{Config, config::SslMode};

/// What the URL says of TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TlsParameters {
    /// Whether TLS is used, and what of the server's certificate is checked.
    pub(super) mode: Option<Mode>,
    /// `sslrootcert`.
    pub(super) ca: Option<String>,
    /// `sslcert` and `sslkey`.
    pub(super) certificate: [Option<String>; 2],
}

/// The modes of libpq's `sslmode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// `disable`: plain text.
    Disable,
    /// `prefer`: TLS if the server has it, whatever its certificate.
    Prefer,
    /// `require`: TLS, whatever the certificate.
    Require,
    /// `verify-ca`: TLS, and the certificate's authority is trusted.
    VerifyCa,
    /// `verify-full`: also, the certificate is for the host's name.
    VerifyFull,
}

/// Parameters of other drivers that change nothing here.
const IGNORED: [&str; 10] = [
    "gssencmode",
    "pgbouncer",
    "prepareThreshold",
    "prepared_statement_cache_size",
    "reWriteBatchedInserts",
    "stringtype",
    "client_encoding",
    "connection_limit",
    "pool_timeout",
    "pool_size",
];

/// Parses a URL. The error is the rest of the sentence "PostgreSQL's URL can't be parsed: …".
pub(super) fn parse(text: &str) -> Result<(Config, TlsParameters), String> {
    let jdbc = text.strip_prefix("jdbc:");
    let Some((scheme, rest)) = jdbc.unwrap_or(text).split_once("://") else {
        // Keywords and values, `host=… user=…`.
        let config = Config::from_str(text).map_err(|_| "it is no URL".to_owned())?;
        return Ok((config, TlsParameters::default()));
    };
    let driver = scheme.split('+').next().unwrap_or_default();
    if !["postgresql", "postgres"].contains(&driver) {
        return Err("its scheme is not postgresql".to_owned());
    }
    // JDBC has user and password in parameters. Elsewhere the first @ ends them for the driver.
    let (user, rest) = match rest.split_once('@').filter(|_| jdbc.is_none()) {
        Some((_, rest)) if rest.contains('@') => {
            return Err("user or password contains @".to_owned());
        }
        Some((user, rest)) => (format!("{user}@"), rest),
        None => (String::new(), rest),
    };
    let (location, query) = rest.split_once('?').unwrap_or((rest, ""));
    let mut tls = TlsParameters::default();
    let mut others = String::new();
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if !tls.set(name, value)? && !IGNORED.contains(&name) {
            let name = match name {
                "ApplicationName" => "application_name",
                "connectTimeout" => "connect_timeout",
                name => name,
            };
            let separator = if others.is_empty() { '?' } else { '&' };
            let value = value.replace('@', "%40");
            let _ = write!(others, "{separator}{name}={value}");
        }
    }
    let url = format!("postgresql://{user}{location}{others}");
    let config = Config::from_str(&url).map_err(|_| fault(location, &others))?;
    if config.get_user().is_none() {
        return Err("it names no user".to_owned());
    }
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return Err("it names no host".to_owned());
    }
    Ok((config, tls))
}

impl TlsParameters {
    /// Takes in a parameter that is about TLS; false for others.
    fn set(&mut self, name: &str, value: &str) -> Result<bool, String> {
        let path = || Some(value.replace("%2F", "/").replace("%2f", "/"));
        match name {
            "sslmode" | "ssl" => self.mode = Some(mode(name, value)?),
            "sslrootcert" => self.ca = path(),
            "sslcert" => self.certificate[0] = path(),
            "sslkey" => self.certificate[1] = path(),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn mode(name: &str, value: &str) -> Result<Mode, String> {
    Ok(match value {
        "disable" | "false" => Mode::Disable,
        "allow" | "prefer" => Mode::Prefer,
        "require" => Mode::Require,
        "verify-ca" => Mode::VerifyCa,
        // As JDBC's `ssl=true` does.
        "verify-full" | "true" | "" => Mode::VerifyFull,
        _ => {
            return Err(format!(
                "its {name} is none of disable, prefer, require, verify-ca and verify-full"
            ));
        }
    })
}

/// Which part the driver can't parse.
fn fault(location: &str, parameters: &str) -> String {
    let (hosts, _) = location.split_once('/').unwrap_or((location, ""));
    let is_port = |host: &str| {
        let end = host.rsplit_once(']').map_or(host, |(_, end)| end);
        end.split_once(':')
            .is_none_or(|(_, port)| port.parse::<u16>().is_ok())
    };
    if !hosts.split(',').all(is_port) {
        return "its port is no number, or user and password are not followed by @".to_owned();
    }
    let is_refused = |parameter: &&str| {
        let alone = format!("postgresql://u@h/d?{parameter}");
        Config::from_str(&alone).is_err()
    };
    let names = parameters.trim_start_matches('?').split('&');
    let refused = names.filter(|name| !name.is_empty()).find(is_refused);
    match refused.and_then(|parameter| parameter.split('=').next()) {
        // It may be the rest of a password with `&` in it.
        Some(_) if parameters.contains("password=") => {
            "a parameter is unknown, or & in the password is not percent-encoded".to_owned()
        }
        Some(name) => format!("its parameter {name} is unknown or has a wrong value"),
        None => "user, password, host or database is not percent-encoded".to_owned(),
    }
}

/// The driver's mode for one of libpq's.
pub(super) fn driver_mode(mode: Mode) -> SslMode {
    match mode {
        Mode::Disable => SslMode::Disable,
        Mode::Prefer => SslMode::Prefer,
        Mode::Require | Mode::VerifyCa | Mode::VerifyFull => SslMode::Require,
    }
}

#[cfg(test)]
mod tests {
    use tokio_postgres::config::Host;

    use super::*;

    const PASSWORD: &str = "not-for-messages";

    #[test]
    fn urls_of_other_drivers_are_understood() {
        let host = "db.x:5433/pinpipe";
        for url in [
            format!("postgresql://u:p@{host}"),
            format!("postgres://u:p@{host}"),
            format!("postgresql+psycopg2://u:p@{host}"),
            format!("postgresql+asyncpg://u:p@{host}?ssl=require"),
            format!("jdbc:postgresql://{host}?user=u&password=p&ApplicationName=a"),
            format!("postgresql://u:p@{host}?gssencmode=disable&connect_timeout=5"),
        ] {
            let (config, _) = parse(&url).unwrap();
            assert_eq!(config.get_user(), Some("u"), "{url}");
            assert_eq!(config.get_password(), Some(&b"p"[..]), "{url}");
            assert_eq!(config.get_hosts(), [Host::Tcp("db.x".to_owned())], "{url}");
            assert_eq!(config.get_ports(), [5433], "{url}");
            assert_eq!(config.get_dbname(), Some("pinpipe"), "{url}");
        }
        let (config, _) = parse("postgresql://u:p%40ss%2Fword@db.x/pinpipe").unwrap();
        assert_eq!(config.get_password(), Some(&b"p@ss/word"[..]));
    }

    #[test]
    fn each_mode_of_libpq_is_understood() {
        for (parameters, mode, ca) in [
            ("", None, None),
            ("?sslmode=disable", Some(Mode::Disable), None),
            ("?sslmode=allow", Some(Mode::Prefer), None),
            ("?sslmode=require", Some(Mode::Require), None),
            ("?sslmode=verify-ca", Some(Mode::VerifyCa), None),
            (
                "?sslmode=verify-full&sslrootcert=/etc/ca.pem",
                Some(Mode::VerifyFull),
                Some("/etc/ca.pem"),
            ),
            ("?ssl=true", Some(Mode::VerifyFull), None),
        ] {
            let (_, tls) = parse(&format!("postgresql://u:p@db.x/d{parameters}")).unwrap();
            assert_eq!((tls.mode, tls.ca.as_deref()), (mode, ca), "{parameters}");
        }
    }

    #[test]
    fn the_part_at_fault_is_named_and_the_password_is_not() {
        for (url, says) in [
            (
                format!("mysql://u:{PASSWORD}@db.x/d"),
                "its scheme is not postgresql",
            ),
            (format!("postgres:/u:{PASSWORD}@db?x=y"), "it is no URL"),
            (
                format!("postgresql://u:p@{PASSWORD}/word@db.x/d"),
                "user or password contains @",
            ),
            (
                format!("postgresql://u:p@x?{PASSWORD}=w@db/x"),
                "user or password contains @",
            ),
            (
                format!("postgresql://u:{PASSWORD}@db.x:port/d"),
                "its port is no number",
            ),
            (
                "jdbc:postgresql://db.x:5432/d".to_owned(),
                "it names no user",
            ),
            (
                format!("postgresql://u:{PASSWORD}@db.x/d?sslmode=on"),
                "its sslmode is none of",
            ),
            (
                format!("postgresql://u:{PASSWORD}@db.x/d?connect_timeout=5&currentSchema=s"),
                "its parameter currentSchema is unknown or has a wrong value",
            ),
            (format!("postgresql://u:{PASSWORD}@/d"), "it names no host"),
            (
                format!("jdbc:postgresql://db.x/d?user=u&password=abc&{PASSWORD}"),
                "a parameter is unknown, or & in the password",
            ),
            (
                format!("postgresql://db.x/d?user=u&password=abc&{PASSWORD}=x"),
                "a parameter is unknown, or & in the password",
            ),
        ] {
            let message = parse(&url).unwrap_err();
            assert!(message.starts_with(says), "{url}: {message}");
            assert!(!message.contains(PASSWORD), "{message}");
        }
    }
}
