//! TLS to a PostgreSQL server that requires it, and to one that has none.
#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::Context as _;
use pinpipe_config::{Tls, TrustedCa};
use pinpipe_runtime::postgres::{Source, read};
use pinpipe_servers::{
    certificates::{Authority, Files},
    postgres::Postgres,
    process::Process,
    stores::{folder, keep, port, postgres},
};

const PASSWORD: &str = "not-for-messages";

/// Who may connect: everybody by TLS, with a password; `mtls` with a client certificate.
const RULES: &str = "\
hostssl all postgres 127.0.0.1/32 trust
hostssl all mtls 127.0.0.1/32 cert
hostssl all all 127.0.0.1/32 scram-sha-256
";

fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(|| Authority::new(folder().join("authority")).unwrap())
}

fn issue(name: &str, days: i32, at: &str) -> Files {
    authority().issue(name, days, &folder().join(at)).unwrap()
}

/// Starts a server with this certificate. Returns its port.
fn server(name: &'static str, host: &'static str, days: i32) -> u16 {
    let files = issue(host, days, name);
    fs::set_permissions(&files.key, fs::Permissions::from_mode(0o600)).unwrap();
    let rules = folder().join(name).join("hba.conf");
    fs::write(&rules, RULES).unwrap();
    keep(move || {
        let folder = folder().join(name);
        let of = |path: &Path| path.display().to_string();
        let server = Postgres {
            folder: folder.clone(),
            port: port(),
            settings: vec![
                "fsync=off".to_owned(),
                "ssl=on".to_owned(),
                format!("ssl_cert_file={}", of(&files.certificate)),
                format!("ssl_key_file={}", of(&files.key)),
                format!("ssl_ca_file={}", of(&authority().certificate())),
                format!("hba_file={}", of(&rules)),
            ],
        };
        let mut command = server.prepare()?;
        // A server doesn't read a key that belongs to somebody else. Without the right to give it
        // away, the server runs as this user.
        let _ = Command::new("chown")
            .arg("postgres")
            .arg(&files.key)
            .status();
        let mut process = Process::start(&mut command, folder.join("log"))?;
        process
            .wait_until(|| server.is_ready())
            .context("PostgreSQL")?;
        Ok((process, server.port))
    })
}

/// The port of a server with a certificate that clients accept, and users.
async fn good() -> u16 {
    static PORT: OnceLock<u16> = OnceLock::new();
    let port = *PORT.get_or_init(|| server("good", "127.0.0.1", 10));
    let url = format!("postgresql://postgres@127.0.0.1:{port}/postgres?sslmode=require");
    let (client, _) = connect(&url, None).await.unwrap();
    let users = format!(
        "SELECT pg_advisory_lock(1); DO $$BEGIN IF to_regrole('app') IS NULL THEN \
         CREATE ROLE app LOGIN PASSWORD '{PASSWORD}'; CREATE ROLE mtls LOGIN; END IF; END$$"
    );
    client.batch_execute(&users).await.unwrap();
    port
}

fn trusting() -> Tls {
    Tls {
        ca_file: Some(authority().certificate()),
        ..Tls::default()
    }
}

async fn connect(url: &str, tls: Option<Tls>) -> Result<(tokio_postgres::Client, bool), String> {
    static NUMBER: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let url_file: PathBuf = folder().join(format!("url-{number}"));
    fs::write(&url_file, url).unwrap();
    let source = Source {
        url_file: &url_file,
        secret: Some("Secret warehouse, key url"),
        tls: tls.as_ref(),
    };
    let settings = read(&source).map_err(|error| format!("{error:#}"))?;
    let connected = settings
        .connect()
        .await
        .map_err(|error| error.to_string())?;
    let encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let row = connected.0.query_one(encrypted, &[]).await.unwrap();
    Ok((connected.0, row.get(0)))
}

#[tokio::test]
async fn each_mode_connects_and_a_wrong_password_is_named() {
    let port = good().await;
    let url =
        |user: &str, mode: &str| format!("postgresql://{user}@127.0.0.1:{port}/postgres{mode}");
    let user = format!("app:{PASSWORD}");
    for (mode, tls) in [
        ("", None),
        ("?sslmode=prefer", None),
        ("?sslmode=require", None),
        ("?sslmode=require", Some(trusting())),
        ("?sslmode=verify-ca", Some(trusting())),
        ("?sslmode=verify-full", Some(trusting())),
        ("", Some(trusting())),
    ] {
        let (_, encrypted) = connect(&url(&user, mode), tls).await.unwrap();
        assert!(encrypted, "{mode}");
    }
    let root = format!(
        "?sslmode=verify-full&sslrootcert={}",
        authority().certificate().display()
    );
    assert!(connect(&url(&user, &root), None).await.unwrap().1);

    let own = Tls {
        certificate_dir: issue("mtls", 10, "client").key.parent().map(Path::to_owned),
        ..trusting()
    };
    assert!(connect(&url("mtls", ""), Some(own)).await.unwrap().1);

    let message = connect(&url("app:wrong", ""), Some(trusting()))
        .await
        .unwrap_err();
    for says in [
        "refuses the connection: password authentication failed for user \"app\" (28P01)",
        "correct user and password in the Secret's URL",
    ] {
        assert!(message.contains(says), "{message}");
    }
}

#[tokio::test]
async fn each_fault_of_a_certificate_and_of_the_mode_has_a_sentence_of_its_own() {
    let good = good().await;
    let stranger = Authority::new(folder().join("stranger")).unwrap();
    let stranger = Tls {
        ca_file: Some(stranger.certificate()),
        ..Tls::default()
    };
    for (port, mode, tls, says) in [
        (
            good,
            "verify-full",
            Some(stranger),
            "can't be reached: the server's certificate is of an unknown authority: self-signed \
             certificate in certificate chain; set caSecretRef",
        ),
        (
            server("expired", "127.0.0.1", -1),
            "verify-full",
            Some(trusting()),
            "the server's certificate can't be accepted: certificate has expired; renew it",
        ),
        (
            server("other", "db.example", 10),
            "verify-full",
            Some(trusting()),
            "the server's certificate is not for the host name that is connected to: IP address \
             mismatch",
        ),
        (
            good,
            "disable",
            None,
            "no encryption (28000): the server may require TLS: add sslmode=require",
        ),
        (
            postgres(),
            "require",
            None,
            "server does not support TLS; turn TLS on at the server, or set sslmode=disable",
        ),
    ] {
        let url = format!("postgresql://app:{PASSWORD}@127.0.0.1:{port}/postgres?sslmode={mode}");
        let message = connect(&url, tls).await.unwrap_err();
        assert!(message.contains(says), "{message}\ndoes not say {says}");
        assert!(!message.contains(PASSWORD), "{message}");
        let server = format!("PostgreSQL at 127.0.0.1:{port} (Secret warehouse, key url) ");
        assert!(message.starts_with(&server), "{message}");
    }
}

/// A bundle with the authorities of a company, which are trusted besides the public ones.
fn bundle(file: PathBuf) -> Tls {
    Tls {
        trusted_ca: Some(TrustedCa {
            file,
            secret: "Secret company, key ca.crt".to_owned(),
        }),
        ..Tls::default()
    }
}

#[tokio::test]
async fn a_company_s_authority_is_trusted_besides_the_public_ones() {
    let port = good().await;
    let strict =
        format!("postgresql://app:{PASSWORD}@127.0.0.1:{port}/postgres?sslmode=verify-full");
    let company = bundle(authority().certificate());
    for url in [strict.clone(), format!("{strict}&sslrootcert=system")] {
        let (_, encrypted) = connect(&url, Some(company.clone())).await.unwrap();
        assert!(encrypted, "{url}");
        let message = connect(&url, None).await.unwrap_err();
        assert!(message.contains("is of an unknown authority"), "{message}");
    }

    // One that is named for the connection is the only one.
    let another = Authority::new(folder().join("another")).unwrap();
    let named = Tls {
        ca_file: Some(another.certificate()),
        ..company
    };
    let message = connect(&strict, Some(named)).await.unwrap_err();
    assert!(message.contains("is of an unknown authority"), "{message}");

    let file = folder().join("no-certificate");
    fs::write(&file, "not a certificate").unwrap();
    let message = connect(&strict, Some(bundle(file))).await.unwrap_err();
    let says = "Secret company, key ca.crt (trustedCASecretRef) has no certificate in PEM";
    assert!(message.contains(says), "{message}");
}
