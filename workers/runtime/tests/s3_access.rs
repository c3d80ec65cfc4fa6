//! Credentials that pods get from a Secret or their environment, and object stores with an
//! authority of their own.
#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc::{Receiver, channel},
    thread,
};

use pinpipe_config::{S3, TrustedCa};
use pinpipe_runtime::{
    failure::Class,
    raw_zone,
    s3::{self, RequestError},
    telemetry::{self, LogFormat},
};
use pinpipe_servers::{
    certificates::Authority,
    process::Process,
    stores::{self, folder, keep, port, s3_server},
};

/// The key that the store accepts, see [`pinpipe_servers::s3`].
const KEY: &str = "local-secret";
/// What a pod shows to get credentials.
const TOKEN: &str = "token-of-the-pod";
/// A part of the credentials that it gets.
const SESSION: &str = "session-of-the-pod";
const LATER: &str = "2999-01-01T00:00:00Z";

/// The end of an answer's status line, and its body.
type Answer = (&'static str, String);

fn serve(stream: &mut TcpStream, answer: &impl Fn(&str) -> Answer) -> Option<String> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut request = String::new();
    while !request.ends_with("\r\n\r\n") {
        if reader.read_line(&mut request).ok()? == 0 {
            return None;
        }
    }
    let head = request.to_lowercase();
    let length = head.split("content-length: ").nth(1);
    let length = length.and_then(|rest| rest.split("\r\n").next());
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    reader.read_exact(&mut body).ok()?;
    request.push_str(&String::from_utf8(body).unwrap());
    let (status, body) = answer(&request);
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n");
    let answer = format!("{head}\r\n{body}");
    stream.write_all(answer.as_bytes()).ok()?;
    Some(request)
}

/// The URL of a service of HTTP, and the requests it has answered.
fn service(answer: impl Fn(&str) -> Answer + Send + 'static) -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, requests) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            if let Some(request) = serve(&mut stream.unwrap(), &answer) {
                let _ = sender.send(request);
            }
        }
    });
    (url, requests)
}

/// A store that records requests instead of checking them. Its bucket doesn't exist, which takes
/// two requests.
fn recorder() -> (String, Receiver<String>) {
    service(|request| {
        let status = if request.starts_with("HEAD") {
            "404 Not Found"
        } else {
            "200 OK"
        };
        (status, String::new())
    })
}

/// The credentials as the agent of EKS Pod Identity answers.
fn of_an_agent(expiration: &str) -> String {
    format!(
        r#"{{"AccessKeyId":"key-of-the-pod","SecretAccessKey":"{KEY}","Token":"{SESSION}",
            "Expiration":"{expiration}"}}"#
    )
}

/// The credentials as AWS's Security Token Service answers.
fn of_sts() -> String {
    format!(
        "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
         <AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>key-of-the-pod</AccessKeyId>\
         <SecretAccessKey>{KEY}</SecretAccessKey><SessionToken>{SESSION}</SessionToken>\
         <Expiration>{LATER}</Expiration></Credentials></AssumeRoleWithWebIdentityResult>\
         </AssumeRoleWithWebIdentityResponse>"
    )
}

/// Opens a bucket in a process of its own with these variables, which has the error. Whatever it
/// writes has no secret.
fn in_a_pod(store: &str, variables: &[(&str, &str)]) -> Result<(), String> {
    let mut child = Command::new(env::current_exe().unwrap());
    child.args(["--exact", "child", "--ignored", "--nocapture"]);
    child.env_remove("RUST_LOG").env("HOME", "/nonexistent");
    child.env("AWS_EC2_METADATA_DISABLED", "true");
    child.env("TEST_STORE", store).envs(variables.to_vec());
    let output = child.output().unwrap();
    let written = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    for secret in [KEY, TOKEN, SESSION] {
        assert!(!written.contains(secret), "{written}");
    }
    assert!(output.status.success(), "{written}");
    let error = written.split("ERROR OF THE CHILD: ").nth(1);
    let error = error.and_then(|rest| rest.lines().next());
    error.map_or(Ok(()), |error| Err(error.to_owned()))
}

#[tokio::test]
#[ignore = "the tests below run it in processes of their own"]
async fn child() {
    telemetry::init(LogFormat::Plain);
    let path = |name| env::var_os(name).map(PathBuf::from);
    let store = S3 {
        endpoint: Some(env::var("TEST_STORE").unwrap()),
        region: "eu-west-1".to_owned(),
        credentials_dir: path("TEST_CREDENTIALS"),
        ca_file: path("TEST_CA"),
        trusted_ca: path("TEST_TRUSTED").map(|file| TrustedCa {
            file,
            secret: "Secret company, key ca.crt".to_owned(),
        }),
        kms_key_id: None,
    };
    let opened = async {
        let client = s3::client(&store).await?;
        anyhow::Ok(s3::ensure_bucket(&client, &store, "data").await?)
    };
    if let Err(error) = opened.await {
        println!("ERROR OF THE CHILD: {error:#}");
    }
}

/// A file with the token that a pod shows.
fn token_file(test: &str) -> String {
    let file = folder().join(format!("token-{test}"));
    fs::write(&file, TOKEN).unwrap();
    file.display().to_string()
}

fn assert_signed(requests: &Receiver<String>) {
    let requests: Vec<String> = requests.try_iter().collect();
    assert_eq!(requests.len(), 2, "{requests:?}");
    for request in requests {
        let request = request.to_lowercase();
        let session = format!("x-amz-security-token: {SESSION}");
        for part in [" /data", "credential=key-of-the-pod/", &session] {
            assert!(request.contains(part), "{request}");
        }
    }
}

#[test]
fn the_keys_of_a_secret_are_used() {
    let (port, credentials) = stores::s3(true);
    let store = format!("http://127.0.0.1:{port}");
    let with = |folder: &Path| {
        let folder = folder.display().to_string();
        // The environment doesn't count beside a Secret.
        let variables = [
            ("AWS_ACCESS_KEY_ID", "other"),
            ("AWS_SECRET_ACCESS_KEY", "other"),
            ("TEST_CREDENTIALS", &folder),
        ];
        in_a_pod(&store, &variables)
    };
    with(credentials).unwrap();

    let others = folder().join("others");
    fs::create_dir_all(&others).unwrap();
    fs::write(others.join("accessKeyId"), "local").unwrap();
    fs::write(others.join("secretAccessKey"), format!("{KEY}-of-others")).unwrap();
    let error = with(&others).unwrap_err();
    assert!(error.contains("SignatureDoesNotMatch"), "{error}");
}

#[test]
fn temporary_credentials_of_a_secret_are_used() {
    let credentials = folder().join("temporary");
    fs::create_dir_all(&credentials).unwrap();
    for (file, content) in [
        ("accessKeyId", "key-of-the-pod"),
        ("secretAccessKey", KEY),
        ("sessionToken", SESSION),
    ] {
        fs::write(credentials.join(file), content).unwrap();
    }
    let (store, requests) = recorder();
    let variables = [("TEST_CREDENTIALS", credentials.to_str().unwrap())];
    in_a_pod(&store, &variables).unwrap();
    assert_signed(&requests);

    // The real store knows this key, but has issued no token for it.
    let (port, _) = stores::s3(true);
    let store = format!("http://127.0.0.1:{port}");
    fs::write(credentials.join("accessKeyId"), "local").unwrap();
    let error = in_a_pod(&store, &variables).unwrap_err();
    assert!(error.contains("InvalidAccessKeyId"), "{error}");
    fs::remove_file(credentials.join("sessionToken")).unwrap();
    in_a_pod(&store, &variables).unwrap();
}

#[tokio::test]
async fn an_expired_token_is_named_by_the_answer_to_another_request_than_head() {
    let (store, _requests) = service(|request| {
        let code = "<Error><Code>ExpiredToken</Code><Message>It has expired</Message></Error>";
        let body = if request.starts_with("HEAD") {
            ""
        } else {
            code
        };
        ("400 Bad Request", body.to_owned())
    });
    let store = S3 {
        endpoint: Some(store),
        region: "eu-west-1".to_owned(),
        credentials_dir: Some(stores::s3(true).1.clone()),
        ..S3::default()
    };
    let client = s3::client(&store).await.unwrap();
    let error = raw_zone::object_metadata(&client, "data", "k").await;
    let error = error.unwrap_err();
    assert!(error.to_string().contains("ExpiredToken"), "{error:#}");
    let error: &RequestError = error.downcast_ref().unwrap();
    assert!(error.class == Class::AccessDenied && error.has_expired);
}

#[test]
fn a_pod_identity_is_used_and_renewed() {
    let token = token_file("agent");
    for (expiration, times) in [(LATER, 1), ("2001-01-01T00:00:00Z", 2)] {
        let granted = format!("authorization: {TOKEN}");
        let (agent, asked) = service(move |request| {
            if request.to_lowercase().contains(&granted) {
                ("200 OK", of_an_agent(expiration))
            } else {
                ("401 Unauthorized", String::new())
            }
        });
        let (store, requests) = recorder();
        let pod = [
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", agent.as_str()),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &token),
        ];
        in_a_pod(&store, &pod).unwrap();
        assert_signed(&requests);
        assert_eq!(asked.try_iter().count(), times);
    }
}

#[test]
fn a_web_identity_is_used() {
    let (sts, asked) = service(|_| ("200 OK", of_sts()));
    let (store, requests) = recorder();
    let token = token_file("sts");
    let with = |sts: &str| {
        let pod = [
            ("AWS_ENDPOINT_URL_STS", sts),
            ("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/pinterest"),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", &token),
        ];
        in_a_pod(&store, &pod)
    };
    with(&sts).unwrap();
    assert_signed(&requests);
    let asked: Vec<String> = asked.try_iter().collect();
    for part in [
        "Action=AssumeRoleWithWebIdentity",
        "RoleArn=arn%3Aaws%3Aiam%3A%3A111122223333%3Arole%2Fpinterest",
        &format!("WebIdentityToken={TOKEN}"),
    ] {
        assert!(asked.len() == 1 && asked[0].contains(part), "{asked:?}");
    }

    let (refusing, _) = service(|_| {
        let error = "<Code>AccessDenied</Code><Message>Not authorized to assume</Message>";
        let error = format!("<ErrorResponse><Error>{error}</Error></ErrorResponse>");
        ("403 Forbidden", error)
    });
    let error = with(&refusing).unwrap_err();
    for part in ["AccessDenied", "Not authorized to assume", "needs a role"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn without_credentials_the_message_says_what_is_missing() {
    let (store, requests) = recorder();
    let error = in_a_pod(&store, &[]).unwrap_err();
    assert!(error.contains("needs a role"), "{error}");

    // An answer that can't be used isn't quoted.
    let (agent, _) = service(|_| ("200 OK", of_an_agent(LATER).replace("AccessKeyId", "Key")));
    let pod = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", agent.as_str())];
    let error = in_a_pod(&store, &pod).unwrap_err();
    assert!(error.contains("needs a role"), "{error}");
    assert_eq!(requests.try_iter().count(), 0);
}

/// Starts a store whose certificate is for 127.0.0.1, for so many days. Returns its port of HTTPS.
fn by_https(authority: &Authority, days: i32) -> u16 {
    let folder = folder().join(format!("https-{days}"));
    let files = authority.issue("127.0.0.1", days, &folder).unwrap();
    keep(move || {
        let https = port();
        let server = s3_server(&folder, true)?;
        let mut weed = server.prepare()?;
        weed.arg(format!("-s3.port.https={https}"))
            .arg(format!("-s3.cert.file={}", files.certificate.display()))
            .arg(format!("-s3.key.file={}", files.key.display()));
        let mut process = Process::start(&mut weed, folder.join("log"))?;
        let answers = || TcpStream::connect(("127.0.0.1", https)).is_ok();
        process.wait_until(|| server.is_ready() && answers())?;
        Ok((process, https))
    })
}

#[test]
fn a_store_with_an_authority_of_its_own_is_trusted_if_that_is_named() {
    let authority = Authority::new(folder().join("authority")).unwrap();
    let ca = authority.certificate().display().to_string();
    let keys = [
        ("AWS_ACCESS_KEY_ID", "local"),
        ("AWS_SECRET_ACCESS_KEY", KEY),
    ];
    let trusting = [&keys[..], &[("TEST_CA", ca.as_str())]].concat();
    let port = by_https(&authority, 10);
    let store = format!("https://127.0.0.1:{port}");
    in_a_pod(&store, &trusting).unwrap();
    let error = in_a_pod(&store, &keys).unwrap_err();
    assert!(error.contains("is of an unknown authority"), "{error}");
    let error = in_a_pod(&format!("https://localhost:{port}"), &trusting).unwrap_err();
    assert!(error.contains("is not for the host name"), "{error}");

    let error = in_a_pod(&format!("http://127.0.0.1:{port}"), &trusting).unwrap_err();
    assert!(
        error.contains("the port may require TLS: write https:// in s3.endpoint"),
        "{error}"
    );

    let expired = format!("https://127.0.0.1:{}", by_https(&authority, -1));
    let error = in_a_pod(&expired, &trusting).unwrap_err();
    assert!(
        error.contains("its certificate has expired; renew it"),
        "{error}"
    );

    let file = folder().join("no-certificate");
    fs::write(&file, "not a certificate").unwrap();
    let file = file.display().to_string();
    let wrong = [&keys[..], &[("TEST_CA", file.as_str())]].concat();
    let error = in_a_pod(&store, &wrong).unwrap_err();
    assert!(error.contains("caSecretRef has no certificate"), "{error}");
}

#[test]
fn a_company_s_authority_is_trusted_by_clients_of_the_store_and_of_aws() {
    let authority = Authority::new(folder().join("company")).unwrap();
    let ca = authority.certificate().display().to_string();
    let store = format!("https://127.0.0.1:{}", by_https(&authority, 11));
    let trusting = ("TEST_TRUSTED", ca.as_str());
    let keys = [
        ("AWS_ACCESS_KEY_ID", "local"),
        ("AWS_SECRET_ACCESS_KEY", KEY),
    ];
    in_a_pod(&store, &[&keys[..], &[trusting]].concat()).unwrap();
    let error = in_a_pod(&store, &keys).unwrap_err();
    assert!(error.contains("is of an unknown authority"), "{error}");

    // The store stands for AWS's Security Token Service, whatever it answers.
    let (plain, _) = recorder();
    let token = token_file("company");
    let pod = [
        ("AWS_ENDPOINT_URL_STS", store.as_str()),
        ("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/pinterest"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", &token),
    ];
    let error = in_a_pod(&plain, &pod).unwrap_err();
    let says = "AWS's service for credentials is of an unknown authority";
    assert!(error.contains(says), "{error}");
    let answered = in_a_pod(&plain, &[&pod[..], &[trusting]].concat());
    let error = answered.err().unwrap_or_default();
    assert!(!error.contains("UnknownIssuer"), "{error}");

    let file = folder().join("no-bundle");
    fs::write(&file, "not a certificate").unwrap();
    let wrong = ("TEST_TRUSTED", file.to_str().unwrap());
    let error = in_a_pod(&store, &[&keys[..], &[wrong]].concat()).unwrap_err();
    let says = "Secret company, key ca.crt (trustedCASecretRef) has no certificate";
    assert!(error.contains(says), "{error}");
}
