//! TLS and passwords, on a node that requires both.

use std::{fs, path::Path, sync::OnceLock};

use anyhow::Context as _;
use pinpipe_servers::{
    cassandra::Cassandra as Node,
    certificates::Authority,
    process::{Process, lib, program},
    stores::{folder, keep, port},
};

use super::*;

fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(|| Authority::new(folder().join("authority")).unwrap())
}

/// The port of a node whose certificate is valid for that many days.
fn node(name: &'static str, days: i32) -> u16 {
    keep(move || {
        let folder = folder().join(name);
        let node = Node {
            lib: lib("cassandra")?,
            image: Path::new(env!("CARGO_MANIFEST_DIR")).join("../../e2e/images/cassandra"),
            folder: folder.clone(),
            port: port(),
            storage_port: port(),
            certificate: Some(authority().issue("127.0.0.1", days, &folder)?),
        };
        let mut process = Process::start(&mut node.prepare(&program)?, folder.join("log"))?;
        process
            .wait_until(|| node.is_ready())
            .context("Cassandra")?;
        Ok((process, node.port))
    })
}

fn config(port: u16, password: &str, authority: Option<&Authority>) -> Cassandra {
    let credentials = folder().join(format!("user-{password}"));
    fs::create_dir_all(&credentials).unwrap();
    fs::write(credentials.join("username"), "cassandra").unwrap();
    fs::write(credentials.join("password"), password).unwrap();
    Cassandra {
        contact_points: vec![format!("127.0.0.1:{port}")],
        keyspace: "pinterest_data".into(),
        replication: BTreeMap::default(),
        credentials_dir: Some(credentials),
        tls: authority.map(|authority| pinpipe_config::Tls {
            ca_file: Some(authority.certificate()),
            ..pinpipe_config::Tls::default()
        }),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_reached_by_tls_and_each_fault_has_a_sentence_of_its_own() {
    const PASSWORD: &str = "not-for-messages";
    let good = node("good", 10);
    // The superuser is created after the port is open.
    retry(RETRY_TIMEOUT, "connecting", || async {
        let connected = connect(&config(good, "cassandra", Some(authority()))).await;
        connected.map_err(|error| anyhow::anyhow!("{error:#}"))
    })
    .await
    .unwrap();
    let stranger = Authority::new(folder().join("stranger")).unwrap();
    let expired = node("expired", -1);
    for (config, says) in [
        (
            config(good, PASSWORD, Some(authority())),
            "refuses the user name and password in the Secret of cassandra.credentialsSecretRef",
        ),
        (
            config(good, PASSWORD, Some(&stranger)),
            "the node's certificate is of an unknown authority",
        ),
        (
            config(expired, PASSWORD, Some(authority())),
            "the node's certificate can't be accepted: certificate has expired",
        ),
        (
            config(good, PASSWORD, None),
            "it may require TLS, see cassandra.tls",
        ),
    ] {
        let error = format!("{:#}", connect(&config).await.err().unwrap());
        assert!(error.contains(says), "{error}\ndoes not say {says}");
        assert!(!error.contains(PASSWORD), "{error}");
    }
}
