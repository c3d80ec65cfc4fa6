use std::{io::Read as _, net::TcpListener, thread};

use super::*;

#[tokio::test]
async fn the_finding_of_a_tls_listener_says_so_and_stays_the_same() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let access = Access {
        bootstrap_servers: address.clone(),
        ..Access::default()
    };
    // A TLS listener closes connections that do not begin with a handshake.
    thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.unwrap().read_exact(&mut [0; 5]);
        }
    });
    let brokers = Brokers::default();
    let finding = async || {
        let described = brokers.describe(&access, vec!["t".to_owned()]).await;
        described.err().unwrap().finding()
    };
    let first = finding().await;
    assert_eq!(first.reason, reasons::BROKER_UNREACHABLE);
    for part in [
        &address,
        "spec.broker.kafka.bootstrapServers",
        "might require TLS",
    ] {
        assert!(first.message.contains(part), "{}", first.message);
    }
    let begun = Instant::now();
    assert_eq!(finding().await, first);
    assert!(begun.elapsed() < TIMEOUT / 2, "it isn't queried again");
    lock(&brokers.unreachable).clear();
    assert_eq!(finding().await, first);
}

#[test]
fn settings_that_may_not_be_read_stay_empty_and_any_other_error_is_one() {
    let topics = [("t".to_owned(), ObservedTopic::default())];
    let mut cluster = Cluster {
        id: "c".to_owned(),
        topics: topics.into(),
    };
    let withheld = Err(RDKafkaErrorCode::TopicAuthorizationFailed);
    add_settings(&mut cluster, vec![withheld]).unwrap();
    assert_eq!(cluster.topics["t"], ObservedTopic::default());

    let failed = Err(RDKafkaErrorCode::RequestTimedOut);
    let error = add_settings(&mut cluster, vec![failed]).unwrap_err();
    assert_eq!(error.finding().reason, reasons::BROKER_FAILED);
    let message = error.to_string();
    assert!(
        message.contains("topics t:") && message.contains("timed out"),
        "{message}"
    );
}
