//! What messages say of servers that refuse or don't answer, and of URLs.

use std::{fs, path::PathBuf};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;

const PASSWORD: &str = "not-for-messages";
const SECRET: &str = "Secret warehouse, key url";

/// A file with the URL; each test uses another name.
fn url_file(name: &str, url: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("pinpipe-runtime-{}-{name}", std::process::id()));
    fs::write(&path, url).unwrap();
    path
}

/// The error about a URL, and its kind.
async fn message(name: &str, url: &str, secret: Option<&str>) -> (String, Failure) {
    let file = url_file(name, url);
    let read = read(&Source {
        url_file: &file,
        secret,
        tls: None,
    });
    fs::remove_file(file).unwrap();
    let (message, kind) = match read {
        Ok(settings) => {
            let error = settings.connect().await.err().unwrap();
            (error.to_string(), error.kind)
        }
        Err(error) => (format!("{error:#}"), Failure::Unavailable),
    };
    assert!(!message.contains(PASSWORD), "{message}");
    (message, kind)
}

/// A server without TLS that answers one connection with an error of PostgreSQL's protocol,
/// <https://www.postgresql.org/docs/current/protocol-error-fields.html>. Returns its port.
async fn refusing(code: &str, sentence: &str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut fields = Vec::new();
    for (field, value) in [('S', "FATAL"), ('V', "FATAL"), ('C', code), ('M', sentence)] {
        fields.extend(format!("{field}{value}\0").into_bytes());
    }
    fields.push(0);
    let mut reply = vec![b'E'];
    reply.extend(u32::try_from(fields.len() + 4).unwrap().to_be_bytes());
    reply.extend(fields);
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        // The client asks for TLS first, and may go on without it.
        for answer in [b"N".as_slice(), &reply] {
            let length = stream.read_u32().await.unwrap();
            let mut request = vec![0; length as usize - 4];
            stream.read_exact(&mut request).await.unwrap();
            stream.write_all(answer).await.unwrap();
        }
    });
    port
}

#[tokio::test]
async fn a_refused_connection_passes_the_server_s_sentence_on() {
    for (code, sentence, remedy, kind) in [
        (
            "28000",
            "no pg_hba.conf entry for host \"10.0.0.7\", user \"app\", database \"db\", no \
             encryption",
            ": the server may require TLS: add sslmode=require or sslmode=verify-full to the \
             Secret's URL, or correct its pg_hba.conf",
            Failure::AccessDenied,
        ),
        (
            "28P01",
            "password authentication failed for user \"app\"",
            ": correct user and password in the Secret's URL",
            Failure::AccessDenied,
        ),
        (
            "3D000",
            "database \"db\" does not exist",
            ": create the database, or correct its name in the Secret's URL",
            Failure::DatabaseMissing,
        ),
        (
            "42501",
            "permission denied for database \"db\"",
            ": let the URL's user connect to the database (GRANT CONNECT)",
            Failure::AccessDenied,
        ),
        (
            "53300",
            "sorry, too many clients already",
            "",
            Failure::Unavailable,
        ),
    ] {
        let port = refusing(code, sentence).await;
        let url = format!("postgresql://app:{PASSWORD}@127.0.0.1:{port}/db");
        let expected = format!(
            "PostgreSQL at 127.0.0.1:{port} ({SECRET}) refuses the connection: {sentence} \
             ({code}){remedy}"
        );
        assert_eq!(
            message("refused", &url, Some(SECRET)).await,
            (expected, kind)
        );
    }
}

#[tokio::test]
async fn an_unreachable_server_is_named_with_the_system_s_sentence() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let url = format!("postgresql://app:{PASSWORD}@127.0.0.1:{port}/db");
    let (message, kind) = message("unreachable", &url, None).await;
    let start = format!("PostgreSQL at 127.0.0.1:{port} (URL in ");
    assert!(message.starts_with(&start), "{message}");
    assert!(message.contains("can't be reached: "), "{message}");
    assert!(message.contains("Connection refused"), "{message}");
    assert_eq!(kind, Failure::Unavailable);
}

#[tokio::test]
async fn a_url_without_use_names_the_secret_and_the_fault() {
    for (name, url, says) in [
        (
            "unparsable",
            format!("postgres:/app:{PASSWORD}@db?x=y"),
            "can't be parsed (Secret warehouse, key url): it is no URL; ",
        ),
        (
            "escape",
            format!("postgresql://app:p@x?{PASSWORD}=w@db/x"),
            "can't be parsed (Secret warehouse, key url): user or password contains @; ",
        ),
        (
            "empty",
            "\n".to_owned(),
            "can't be read: Secret warehouse, key url is empty: ",
        ),
    ] {
        let (message, _) = message(name, &url, Some(SECRET)).await;
        let start = format!("PostgreSQL's URL {says}");
        assert!(message.starts_with(&start), "{message}");
    }
    let url = format!("postgresql://app:{PASSWORD}@db.x/db?sslrootcert=/not/there.pem");
    let (message, _) = message("file", &url, Some(SECRET)).await;
    assert!(message.contains("set caSecretRef"), "{message}");
}

#[test]
fn every_host_of_the_url_is_named_with_its_port() {
    for (url, expected) in [
        ("postgresql://db.x/db", "db.x:5432"),
        ("postgresql://u:p@[fd00::2]:6432/db", "[fd00::2]:6432"),
        ("postgresql://u:p@[fd00::2]/db", "[fd00::2]:5432"),
        ("hostaddr=fd00::2", "[fd00::2]:5432"),
        ("postgresql://a:1,b:2/db", "a:1, b:2"),
        ("host=a,b port=6432", "a:6432, b:6432"),
    ] {
        assert_eq!(addresses(&url.parse().unwrap()), expected);
    }
}
