//! Tests of ingest's HTTP interface without a broker: the service listens on a real port, but the
//! broker's port is closed.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use pinpipe_config::{Compression, Topic, Topics};
use pinpipe_ingest::{
    budget::{Budget, RECORD_OVERHEAD},
    describe::Descriptions,
    http::{Limits, Service, router},
    metrics::Metrics,
    names::Names,
    producer::{Producer, Settings},
};
use pinpipe_runtime::{admin::Admin, compressed::compress, kafka::Access, outage::Outage, server};
use reqwest::{Client, Method, RequestBuilder};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const RECORD_BYTES: usize = 200;
const REQUEST_BYTES: usize = 2000;
const DELIVERY_TIMEOUT: Duration = Duration::from_millis(300);

/// Starts a service whose requests may hold `in_flight_bytes`. Returns the URLs of ingest and
/// metrics.
async fn serve(in_flight_bytes: usize) -> (String, String) {
    // A port without a listener: bound once to find a free one, and closed again.
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let access = Access {
        bootstrap_servers: closed.to_string(),
        ..Access::default()
    };
    let mut admin = Admin::new();
    let metrics = Metrics::register(admin.registry());
    let settings = Settings {
        max_record_bytes: 1000,
        delivery_timeout: DELIVERY_TIMEOUT,
        queue_bytes: 1024 * 1024,
    };
    let outage = Outage::new(admin.readiness(), "BrokerUnavailable");
    let topic = |kind: &str| Topic {
        name: format!("t.{kind}"),
        dead_letter: format!("t.{kind}.dlq"),
    };
    let topics = Topics {
        pin: topic("pin"),
        geo: topic("geo"),
        user: topic("user"),
    };
    let service = Service {
        names: Names::new(topics, &[]),
        limits: Limits {
            record_bytes: RECORD_BYTES,
            request_bytes: REQUEST_BYTES,
            request_records: 50,
        },
        budget: Budget::new(in_flight_bytes, metrics.in_flight_bytes.clone()),
        producer: Producer::new(&access, settings, metrics.broker_up.clone(), outage).unwrap(),
        descriptions: Descriptions::default(),
        metrics,
    };
    let mut urls = Vec::new();
    for app in [router(service), admin.router(axum::Router::new())] {
        let listener = server::listen(0).unwrap();
        let port = listener.local_addr().unwrap().port();
        urls.push(format!("http://127.0.0.1:{port}"));
        tokio::spawn(server::serve(listener, app, 16, CancellationToken::new()));
    }
    (urls.remove(0), urls.remove(0))
}

fn json(url: &str, body: impl Into<reqwest::Body>) -> RequestBuilder {
    Client::new()
        .post(url)
        .header("content-type", "application/json")
        .body(body)
}

async fn answer(request: RequestBuilder) -> (u16, Value) {
    let response = request.send().await.unwrap();
    let retry_after = response.headers().get("retry-after").is_some();
    let status = response.status().as_u16();
    assert_eq!(retry_after, matches!(status, 429 | 503));
    (status, response.json().await.unwrap())
}

#[tokio::test]
async fn errors_say_what_to_do() {
    let (url, _) = serve(1 << 20).await;
    let pin = format!("{url}/pin");
    let long = format!(r#"{{"ind": 1, "x": "{}"}}"#, "x".repeat(RECORD_BYTES));
    for (request, status, error, says) in [
        (Client::new().get(&url), 404, "not-found", "/pin"),
        (Client::new().get(&pin), 405, "method-not-allowed", "POST"),
        (
            Client::new().request(Method::DELETE, &pin),
            405,
            "method-not-allowed",
            "POST",
        ),
        (
            Client::new()
                .post(&pin)
                .header("content-type", "text/csv")
                .body("a,b"),
            415,
            "unsupported-media-type",
            "`text/csv`",
        ),
        (
            json(&pin, "x").header("content-encoding", "br"),
            415,
            "unsupported-encoding",
            "gzip or zstd",
        ),
        (
            json(&pin, "x").header("content-encoding", "gzip"),
            400,
            "broken-encoding",
            "Content-Encoding",
        ),
        (json(&pin, ""), 400, "empty", "records as JSON"),
        (json(&pin, " \n"), 400, "empty", "records as JSON"),
        (
            json(&pin, r#"[{"index": 1"#),
            400,
            "not-json",
            "the array isn't closed",
        ),
        (json(&pin, "[{}]\n {}"), 400, "not-json", "line 2, column 2"),
        (json(&format!("{pin}/x"), "{}"), 404, "not-found", "/pin"),
        (
            json(&pin, vec![b' '; REQUEST_BYTES + 1]),
            413,
            "body-too-large",
            "fewer records",
        ),
        (
            json(&pin, format!("[{}1]", "1,".repeat(50))),
            413,
            "too-many-records",
            "fewer records",
        ),
        (json(&pin, "{"), 400, "refused", "own error"),
        (
            json(&pin, b"{\"index\": 1, \"unique_id\": \"\xff\"}".to_vec()),
            400,
            "refused",
            "own error",
        ),
        (
            json(&format!("{url}/geo"), long),
            413,
            "refused",
            "own error",
        ),
        (
            json(&format!("{url}/geo"), r#"{"idx": 1}"#),
            422,
            "refused",
            "own error",
        ),
    ] {
        let (found, body) = answer(request).await;
        let message = body["message"].as_str().unwrap();
        assert_eq!(
            (found, body["error"].as_str()),
            (status, Some(error)),
            "{body}"
        );
        assert!(message.contains(says), "{message}");
    }
}

/// Requests as scripts send them. Each is refused for the record's key alone: so it was read.
#[tokio::test]
async fn all_forms_of_records_are_read() {
    let (url, _) = serve(1 << 20).await;
    for path in ["/geo", "/geo/", "//geo", "/geo?x=1"] {
        for content_type in [
            None,
            Some("application/json"),
            Some("application/ndjson"),
            Some("application/jsonl"),
            Some("application/x-www-form-urlencoded"),
        ] {
            for (body, count) in [
                ("\u{feff}{\"idx\": 1}", 1),
                ("{\"idx\": 1}{\n\"idx\": 2}\n{\"idx\": 3}\n", 3),
                ("[{\"idx\": 1}, {\"idx\": 2}]", 2),
            ] {
                let mut request = Client::new().post(format!("{url}{path}")).body(body);
                if let Some(content_type) = content_type {
                    request = request.header("content-type", content_type);
                }
                let (status, response) = answer(request).await;
                assert_eq!(
                    (
                        status,
                        &response["rejected"],
                        &response["records"][0]["error"]
                    ),
                    (422, &Value::from(count), &Value::from("key-missing")),
                    "{path}, {content_type:?}, {body}"
                );
            }
        }
    }
}

#[tokio::test]
async fn an_empty_array_is_accepted() {
    let (url, _) = serve(1 << 20).await;
    let (status, body) = answer(json(&format!("{url}/pin"), "[]")).await;
    assert_eq!(
        (status, &body["accepted"], &body["records"]),
        (202, &Value::from(0), &Value::from(Vec::<Value>::new()))
    );
}

#[tokio::test]
async fn every_record_has_its_own_result() {
    let (url, metrics) = serve(1 << 20).await;
    let body = r#"[{"ind": "x"}, {"ind": 1}, 7, {"country": "Albania"}]"#;
    let start = Instant::now();
    let (status, body) = answer(json(&format!("{url}/geo"), body)).await;
    assert!(start.elapsed() >= DELIVERY_TIMEOUT);
    assert_eq!(status, 503, "{body}");
    assert_eq!(
        [&body["accepted"], &body["rejected"], &body["unconfirmed"]],
        [0, 3, 1]
    );
    let results: Vec<_> = (0..4)
        .map(|i| &body["records"][i])
        .map(|record| {
            (
                record["error"].as_str().unwrap(),
                record["field"].as_str(),
                record["retry"].as_bool(),
            )
        })
        .collect();
    assert_eq!(
        results,
        [
            ("key-unreadable", Some("ind"), None),
            ("delivery-timeout", None, Some(true)),
            ("not-an-object", None, None),
            ("key-missing", Some("ind"), None),
        ]
    );
    let text = reqwest::get(format!("{metrics}/metrics"))
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    for line in [
        r#"pinpipe_ingest_records_refused_total{kind="geo",form="records",reason="key-missing"} 1"#,
        concat!(
            r#"pinpipe_ingest_delivery_errors_total{kind="geo",form="records","#,
            r#"reason="delivery-timeout"} 1"#
        ),
        concat!(
            "pinpipe_ingest_request_duration_seconds_count",
            r#"{kind="geo",form="records",status="503"} 1"#
        ),
        "pinpipe_ingest_broker_up 0",
        "pinpipe_ingest_in_flight_bytes 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
}

#[tokio::test]
async fn a_request_over_the_budget_is_refused_until_memory_is_free() {
    let (url, _) = serve(4 * RECORD_OVERHEAD).await;
    let url = format!("{url}/user");
    let record = r#"{"ind": 1}"#;
    // Three records with their overhead fit, six don't while the first three wait for the broker.
    let (first, second) = tokio::join!(
        answer(json(&url, format!("[{record},{record},{record}]"))),
        answer(json(&url, format!("[{record},{record},{record}]"))),
    );
    let mut statuses = [first.0, second.0];
    statuses.sort_unstable();
    assert_eq!(statuses, [429, 503]);
    let (status, _) = answer(json(&url, record)).await;
    assert_eq!(status, 503, "the budget is available again");
}

/// Each form has its own way to say that a record has to be sent again.
#[tokio::test]
async fn unconfirmed_records_are_told_in_the_form_of_the_request() {
    let (url, metrics) = serve(1 << 20).await;
    let mixed = r#"{"records": [{"value": {"ind": 1}}, {"value": {"x": 1}}]}"#;
    let (status, body) = answer(json(&format!("{url}/topics/t.geo"), mixed)).await;
    let codes = [0, 1].map(|entry| body["offsets"][entry]["error_code"].as_u64());
    assert_eq!((status, codes), (200, [Some(50003), Some(42206)]), "{body}");

    let one = r#"{"Data": {"ind": 1}}"#;
    let request = json(&format!("{url}/streams/t.geo/record"), one);
    let response = request.send().await.unwrap();
    assert_eq!(response.headers()["retry-after"], "1");
    assert_eq!(response.status(), 503);
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["__type"], "ServiceUnavailable", "{body}");

    let two = r#"{"records": [{"data": {"ind": 1}}, {"data": 1}]}"#;
    let (status, body) = answer(json(&format!("{url}/streams/t.geo/records"), two)).await;
    let codes = [0, 1].map(|entry| body["Records"][entry]["ErrorCode"].as_str());
    let expected = [Some("ServiceUnavailable"), Some("InvalidArgumentException")];
    assert_eq!((status, codes), (200, expected), "{body}");
    assert_eq!(body["FailedRecordCount"], 2);

    let text = reqwest::get(format!("{metrics}/metrics")).await.unwrap();
    let text = text.text().await.unwrap();
    for line in [
        concat!(
            r#"pinpipe_ingest_records_refused_total{kind="geo",form="rest-proxy","#,
            r#"reason="key-missing"} 1"#
        ),
        concat!(
            "pinpipe_ingest_request_duration_seconds_count",
            r#"{kind="geo",form="streams",status="503"} 1"#
        ),
        concat!(
            "pinpipe_ingest_request_duration_seconds_count",
            r#"{kind="geo",form="streams",status="200"} 1"#
        ),
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
}

#[tokio::test]
async fn compressed_bodies_are_read_in_all_forms() {
    let (url, _) = serve(64 << 20).await;
    for (path, body, status) in [
        ("/geo", r#"{"idx": 1}"#, 422),
        (
            "/topics/t.geo",
            r#"{"records": [{"value": {"idx": 1}}]}"#,
            200,
        ),
        ("/streams/t.geo/record", r#"{"Data": {"idx": 1}}"#, 400),
    ] {
        for (encoding, compression) in [("gzip", Compression::Gzip), ("zstd", Compression::Zstd)] {
            let body = compress(compression, body.as_bytes()).unwrap();
            let request = json(&(url.clone() + path), body).header("content-encoding", encoding);
            let (found, body) = answer(request).await;
            assert_eq!(found, status, "{path}, {encoding}: {body}");
            assert!(
                body.to_string().contains("`idx`"),
                "{path}, {encoding}: {body}"
            );
        }
        // More text than a body may have, in few bytes.
        let bomb = vec![b' '; 100 * REQUEST_BYTES];
        let bomb = compress(Compression::Zstd, &bomb).unwrap();
        let request = json(&(url.clone() + path), bomb).header("content-encoding", "zstd");
        assert_eq!(answer(request).await.0, 413, "{path}");
    }
}

/// A request of another form is not told that its record is too large.
#[tokio::test]
async fn a_large_request_of_another_form_is_told_so() {
    let (url, _) = serve(1 << 20).await;
    let value = format!("{{\"index\": 1, \"x\": \"{}\"}}", "x".repeat(RECORD_BYTES));
    for (body, says) in [
        (
            format!("{{\"records\": [{{\"value\": {value}}}]}}"),
            "/topics/t.pin",
        ),
        (format!("{{\"Data\": {value}}}"), "/streams/t.pin/record"),
    ] {
        let (status, found) = answer(json(&format!("{url}/pin"), body)).await;
        let message = found["records"][0]["message"].as_str().unwrap();
        assert_eq!(status, 422, "{found}");
        assert!(message.contains(says), "{message}");
    }
    let (status, found) = answer(json(&format!("{url}/pin"), value)).await;
    assert_eq!(status, 413, "{found}");
}

#[tokio::test]
async fn names_are_listed_while_no_broker_answers() {
    let (url, _) = serve(1 << 20).await;
    let head = Client::new().head(format!("{url}/topics")).send().await;
    assert_eq!(head.unwrap().status(), 200);
    let (status, names) = answer(Client::new().get(format!("{url}/topics"))).await;
    let expected = serde_json::json!(["t.geo", "t.pin", "t.user"]);
    assert_eq!((status, names), (200, expected));
    let (status, body) = answer(Client::new().get(format!("{url}/topics/t.geo"))).await;
    assert_eq!(
        (status, &body["error_code"]),
        (503, &Value::from(50302)),
        "{body}"
    );
}
