//! TLS and passwords, on a node that requires both.

use std::{fs, path::Path, sync::OnceLock};

use anyhow::Context as _;
use pinpipe_servers::{
    cassandra::Cassandra as Node,
    certificates::Authority,
    process::{Process, lib, program},
    stores::{self, folder, keep, port},
};

use super::*;
use crate::failure;

fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(|| Authority::new(folder().join("authority")).unwrap())
}

/// The port of a node on 127.0.0.1 whose certificate has this host, and is valid for that many
/// days.
fn node(name: &'static str, host: &'static str, days: i32) -> u16 {
    keep(move || {
        let folder = folder().join(name);
        let node = Node {
            lib: lib("cassandra")?,
            image: Path::new(env!("CARGO_MANIFEST_DIR")).join("../../e2e/images/cassandra"),
            folder: folder.clone(),
            port: port(),
            storage_port: port(),
            certificate: Some(authority().issue(host, days, &folder)?),
        };
        let mut process = Process::start(&mut node.prepare(&program)?, folder.join("log"))?;
        process
            .wait_until(|| node.is_ready())
            .context("Cassandra")?;
        Ok((process, node.port))
    })
}

fn config(points: &[&str], password: &str, authority: Option<&Authority>) -> Cassandra {
    let credentials = folder().join(format!("user-{password}"));
    fs::create_dir_all(&credentials).unwrap();
    fs::write(credentials.join("username"), "cassandra").unwrap();
    fs::write(credentials.join("password"), password).unwrap();
    Cassandra {
        contact_points: points.iter().map(|&point| point.to_owned()).collect(),
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
    let own = Some(authority());
    let good = node("good", "localhost", 10);
    let [named, address] = ["localhost", "127.0.0.1"].map(|host| format!("{host}:{good}"));
    // Another name of the same address, which the certificate doesn't have.
    let other = format!("127.1:{good}");
    // The superuser is created after the port is open. The node calls itself 127.0.0.1, so the
    // driver finds it by its address, too.
    retry(RETRY_TIMEOUT, "connecting", || async {
        let connected = connect(&config(&[&named], "cassandra", own)).await;
        connected.map_err(|error| anyhow::anyhow!("{error:#}"))
    })
    .await
    .unwrap();
    let any_name = config(&[&other, &named], "cassandra", own);
    connect(&any_name).await.unwrap();

    let stranger = Authority::new(folder().join("stranger")).unwrap();
    let expired = format!("127.0.0.1:{}", node("expired", "127.0.0.1", -1));
    let plain = format!("127.0.0.1:{}", stores::cassandra());
    for (config, is_permanent, says) in [
        (
            config(&[&named], PASSWORD, own),
            true,
            "refuses the user name and password in the Secret of cassandra.credentialsSecretRef",
        ),
        (
            config(&[&other], PASSWORD, own),
            true,
            "the node's certificate is not for the host name that is connected to: hostname \
             mismatch; connect to a name that the certificate has",
        ),
        (
            config(&[&address], PASSWORD, own),
            true,
            "the node's certificate is not for the host name that is connected to: IP address \
             mismatch; connect to a name that the certificate has",
        ),
        (
            config(&[&named], PASSWORD, Some(&stranger)),
            true,
            "the node's certificate is of an unknown authority: unable to get local issuer \
             certificate; set caSecretRef",
        ),
        (
            config(&[&expired], PASSWORD, own),
            true,
            "the node's certificate can't be accepted: certificate has expired; renew it",
        ),
        (
            config(&[&plain], PASSWORD, own),
            false,
            "the node answers without TLS: turn it on there, or remove cassandra.tls",
        ),
        (
            config(&[&named], PASSWORD, None),
            false,
            "the node closed the connection: it may require TLS, see cassandra.tls",
        ),
    ] {
        let error = connect(&config).await.err().unwrap();
        assert_eq!(failure::is_permanent(&error), is_permanent, "{error:#}");
        let error = format!("{error:#}");
        assert!(error.contains(says), "{error}\ndoes not say {says}");
        assert!(!error.contains(PASSWORD), "{error}");
    }
}
