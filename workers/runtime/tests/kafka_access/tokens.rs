//! Tokens of SASL/OAUTHBEARER. The broker validates JSON Web Tokens without signatures; only MSK
//! itself validates those of AWS's identities.

use std::{
    env,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use anyhow::anyhow;
use pinpipe_config::{AwsMskIam, Kafka, Tls};
use pinpipe_runtime::kafka::{
    Access, BrokerErrors, NewTopic, Progress, Token, Tokens, create_topics,
};
use rdkafka::{
    Message as _,
    admin::AdminClient,
    consumer::{Consumer as _, StreamConsumer},
    producer::{FutureProducer, FutureRecord},
};
use tokio::task::block_in_place;

use super::{NAME, TIMEOUT, access, broker, connect, trusting};

const LONG: Duration = Duration::from_mins(15);
/// The longest that a test waits.
const DEADLINE: Duration = Duration::from_mins(1);

fn base64_url(text: &str) -> String {
    let encoded = openssl::base64::encode_block(text.as_bytes());
    let encoded = encoded.replace('+', "-").replace('/', "_");
    encoded.trim_end_matches('=').to_owned()
}

/// A token that ends `lifetime` after `from`.
fn token(from: SystemTime, lifetime: Duration) -> Token {
    let seconds = |time: SystemTime| {
        let since = time.duration_since(SystemTime::UNIX_EPOCH);
        since.unwrap().as_secs_f64()
    };
    let (issued, expires) = (seconds(from), seconds(from + lifetime));
    let claims = format!(r#"{{"sub":"{NAME}","iat":{issued},"exp":{expires}}}"#);
    let header = base64_url(r#"{"alg":"none"}"#);
    Token {
        value: format!("{header}.{}.", base64_url(&claims)),
        expires: from + lifetime,
    }
}

/// Tokens of this lifetime, and how many were made.
fn counted(lifetime: Duration) -> (Tokens, Arc<AtomicU32>) {
    let made = Arc::new(AtomicU32::new(0));
    let counter = made.clone();
    let tokens = Tokens::new(move || {
        counter.fetch_add(1, Ordering::SeqCst);
        Ok(token(SystemTime::now(), lifetime))
    });
    (tokens, made)
}

fn by(tokens: Tokens) -> Access {
    Access {
        tokens: Some(tokens),
        ..access(broker().sasl, Some(trusting()), None)
    }
}

fn create(access: &Access, topic: &str) {
    let errors = BrokerErrors::new(access);
    let client: AdminClient<_> = access
        .client_config("test")
        .create_with_context(errors.clone())
        .unwrap();
    errors.authenticate(client.inner());
    let topic = NewTopic {
        name: topic,
        partitions: 1,
        replication_factor: 1,
        config: &[],
    };
    let created = create_topics(client.inner(), &[topic], TIMEOUT).unwrap();
    assert!(
        created.iter().all(|(_, result)| result.is_ok()),
        "{created:?}"
    );
}

fn producer(access: &Access) -> FutureProducer<BrokerErrors> {
    let mut config = access.client_config("test");
    config
        .set("linger.ms", "0")
        .set("message.timeout.ms", "10000");
    config
        .create_with_context(BrokerErrors::new(access))
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_client_has_a_token() {
    let (tokens, made) = counted(LONG);
    let access = by(tokens);
    assert_eq!(connect(&access), Ok(()));
    create(&access, "kinds");
    let record = FutureRecord::<(), _>::to("kinds").payload("p");
    producer(&access).send(record, TIMEOUT).await.unwrap();
    let progress = Progress::new(&access, "test", "group", TIMEOUT).unwrap();
    let ends = block_in_place(|| progress.ends(&["kinds".to_owned()])).unwrap();
    assert_eq!(ends["kinds"][&0], 1);
    let consumer: StreamConsumer<_> = access
        .client_config("test")
        .set("group.id", "group")
        .set("auto.offset.reset", "earliest")
        .create_with_context(BrokerErrors::new(&access))
        .unwrap();
    consumer.subscribe(&["kinds"]).unwrap();
    let received = tokio::time::timeout(DEADLINE, consumer.recv()).await;
    assert_eq!(received.unwrap().unwrap().payload(), Some(&b"p"[..]));
    assert_eq!(made.load(Ordering::SeqCst), 1);
}

/// The broker closes connections whose token has expired.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_renewed_before_it_expires() {
    let (tokens, made) = counted(Duration::from_secs(4));
    let access = by(tokens);
    create(&access, "renewed");
    let producer = producer(&access);
    let progress = Progress::new(&access, "test", "group", TIMEOUT).unwrap();
    let (started, mut sent) = (Instant::now(), 0);
    while made.load(Ordering::SeqCst) < 5 {
        assert!(started.elapsed() < DEADLINE, "{made:?}");
        let record = FutureRecord::<(), _>::to("renewed").payload("p");
        producer.send(record, TIMEOUT).await.unwrap();
        sent += 1;
        let ends = block_in_place(|| progress.ends(&["renewed".to_owned()])).unwrap();
        assert_eq!(ends["renewed"][&0], sent);
    }
}

#[test]
fn a_token_that_is_missing_or_refused_is_the_cause() {
    let failing = Tokens::new(|| Err(anyhow!("the role is gone")));
    let error = connect(&by(failing)).unwrap_err();
    assert!(error.contains("OAUTHBEARER: the role is gone"), "{error}");

    let expired = Tokens::new(|| {
        let expired = token(SystemTime::now() - LONG, LONG / 2);
        Ok(Token {
            expires: SystemTime::now() + LONG,
            ..expired
        })
    });
    let error = connect(&by(expired)).unwrap_err();
    assert!(error.contains("SASL authentication error"), "{error}");
}

#[test]
#[ignore = "the test below runs it in processes of their own"]
fn child() {
    let kafka = Kafka {
        bootstrap_servers: env::var("TEST_SERVERS").unwrap(),
        tls: Some(Tls {
            ca_file: Some(env::var("TEST_CA").unwrap().into()),
            ..Tls::default()
        }),
        aws_msk_iam: Some(AwsMskIam {
            region: "eu-west-1".to_owned(),
            trusted_ca: None,
        }),
        ..Kafka::default()
    };
    let access = Access::read(&kafka).unwrap();
    println!("ERROR OF THE CHILD: {}", connect(&access).unwrap_err());
}

/// Connects as a pod does whose environment has these variables.
fn in_a_pod(variables: &[(&str, &str)]) -> String {
    let mut child = Command::new(env::current_exe().unwrap());
    child.args(["--exact", "tokens::child", "--ignored", "--nocapture"]);
    child
        .env("HOME", "/nonexistent")
        .env("AWS_EC2_METADATA_DISABLED", "true");
    child.env("TEST_CA", super::folder().join("authority/ca.crt"));
    child.env("TEST_SERVERS", format!("127.0.0.1:{}", broker().sasl));
    let output = child.envs(variables.to_vec()).output().unwrap();
    let written = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "{written}");
    let error = written.split("ERROR OF THE CHILD: ").nth(1);
    error.unwrap().lines().next().unwrap().to_owned()
}

#[test]
fn an_identity_of_aws_signs_the_token() {
    let keys = [
        ("AWS_ACCESS_KEY_ID", "key-of-the-pod"),
        ("AWS_SECRET_ACCESS_KEY", "secret-of-the-pod"),
    ];
    // This broker reads the token, which isn't of its own kind.
    let error = in_a_pod(&keys);
    assert!(error.contains("SASL authentication error"), "{error}");
    let error = in_a_pod(&[]);
    assert!(error.contains("needs a role"), "{error}");
}
