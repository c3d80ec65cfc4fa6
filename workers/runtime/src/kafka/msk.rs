//! Tokens of AWS's identities for Amazon MSK: the address, signed in advance, of a request to
//! connect, as AWS's own signers make it (<https://github.com/aws/aws-msk-iam-sasl-signer-go>).

use std::{
    collections::BTreeMap,
    iter,
    sync::{LazyLock, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, anyhow};
use aws_sdk_s3::config::{Credentials, ProvideCredentials as _, Region};
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign},
    sign::v4,
};
use pinpipe_config::AwsMskIam;

use super::tokens::{Token, Tokens};
use crate::aws;

/// How long a token is valid: the longest that MSK accepts.
const LIFETIME: Duration = Duration::from_mins(15);
/// How long AWS may take to answer with credentials.
const TIMEOUT: Duration = Duration::from_secs(20);

impl Tokens {
    /// Tokens for the MSK clusters of a region, of this process's identity in AWS.
    #[must_use]
    pub fn of_msk(iam: &AwsMskIam) -> Self {
        static ALL: LazyLock<Mutex<BTreeMap<AwsMskIam, Tokens>>> = LazyLock::new(Mutex::default);
        let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        let tokens = all.entry(iam.clone()).or_insert_with(|| {
            let iam = iam.clone();
            Self::new(move || token(&iam))
        });
        tokens.clone()
    }
}

/// A token of this process's identity. Blocks; must not be called within a runtime.
fn token(iam: &AwsMskIam) -> Result<Token> {
    let region = iam.region.as_str();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let credentials = async {
        let http = aws::http_client(None, iam.trusted_ca.as_ref())?;
        let chain = aws::default_chain(Region::new(region.to_owned()), http).await;
        let found = tokio::time::timeout(TIMEOUT, chain.provide_credentials()).await;
        let found = found.with_context(|| format!("no answer from AWS in {TIMEOUT:?}"))?;
        found.map_err(|error| anyhow!(aws::sentences(&error)))
    };
    let credentials = runtime.block_on(credentials).context(
        "no credentials of AWS for kafka.authentication.awsMskIam: the ServiceAccount or node of \
         the pod needs a role",
    )?;
    signed(&credentials, region, SystemTime::now())
}

fn signed(credentials: &Credentials, region: &str, now: SystemTime) -> Result<Token> {
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::QueryParams;
    settings.expires_in = Some(LIFETIME);
    let identity = credentials.clone().into();
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("kafka-cluster")
        .time(now)
        .settings(settings)
        .build()?
        .into();
    let url = format!("https://kafka.{region}.amazonaws.com/?Action=kafka-cluster%3AConnect");
    let connect = SignableRequest::new("GET", &url, iter::empty(), SignableBody::Bytes(&[]))?;
    let (signature, _) = sign(connect, &parameters)?.into_parts();
    let mut request = http::Request::get(&url).body(())?;
    signature.apply_to_request_http1x(&mut request);
    // MSK logs who made the token, which isn't signed.
    let agent = concat!("&User-Agent=pinpipe%2F", env!("CARGO_PKG_VERSION"));
    let expires = now + LIFETIME;
    Ok(Token {
        value: base64_url(&format!("{}{agent}", request.uri())),
        expires: credentials.expiry().map_or(expires, |end| end.min(expires)),
    })
}

/// Base64 for URLs, without padding.
fn base64_url(text: &str) -> String {
    let encoded = openssl::base64::encode_block(text.as_bytes());
    let encoded = encoded.replace('+', "-").replace('/', "_");
    encoded.trim_end_matches('=').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-30T12:00:00Z.
    const NOW: Duration = Duration::from_hours(498_900);

    fn token(session: Option<&str>, expiry: Option<SystemTime>) -> Token {
        let credentials = Credentials::new(
            "AKIDEXAMPLE",
            "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
            session.map(str::to_owned),
            expiry,
            "test",
        );
        signed(&credentials, "eu-west-1", SystemTime::UNIX_EPOCH + NOW).unwrap()
    }

    fn parameters(query: &str) -> Vec<&str> {
        let mut parameters: Vec<_> = query.split('&').collect();
        parameters.sort_unstable();
        parameters
    }

    /// The expected parameters are those of `aws-msk-iam-sasl-signer-python` 1.0.2 with botocore,
    /// for the same time and credentials.
    #[test]
    fn the_signature_is_that_of_another_implementation() {
        let session = "&X-Amz-Security-Token=FwoGZXIvYXdzEXAMPLE%2F%2Fsession%2Btoken%3D%3D";
        for (given, session, signature) in [
            (
                None,
                "",
                "394ae63d86d1f2f03eabe235ec745bc06f6eebcd5445238a6559d7ec2fefa36b",
            ),
            (
                Some("FwoGZXIvYXdzEXAMPLE//session+token=="),
                session,
                "a837890dc1a79ea4ddaa222ca5a8e926ca925d03ac92b48215de2327f5e4628d",
            ),
        ] {
            let value = token(given, None).value;
            assert!(!value.contains(['+', '/', '=']), "{value}");
            let standard = value.replace('-', "+").replace('_', "/");
            let padding = "=".repeat((4 - standard.len() % 4) % 4);
            let url = openssl::base64::decode_block(&(standard + &padding)).unwrap();
            let url = String::from_utf8(url).unwrap();
            let url = url.trim_end_matches('\0');
            let (address, query) = url.split_once('?').unwrap();
            assert_eq!(address, "https://kafka.eu-west-1.amazonaws.com/");
            let expected = format!(
                "Action=kafka-cluster%3AConnect&X-Amz-Algorithm=AWS4-HMAC-SHA256\
                 &X-Amz-Credential=AKIDEXAMPLE%2F20261130%2Feu-west-1%2Fkafka-cluster\
                 %2Faws4_request&X-Amz-Date=20261130T120000Z&X-Amz-Expires=900\
                 &X-Amz-SignedHeaders=host{session}&X-Amz-Signature={signature}\
                 &User-Agent=pinpipe%2F{}",
                env!("CARGO_PKG_VERSION")
            );
            assert_eq!(parameters(query), parameters(&expected));
        }
    }

    #[test]
    fn a_token_ends_with_its_credentials() {
        let now = SystemTime::UNIX_EPOCH + NOW;
        for (credentials, expected) in [(None, 900), (Some(60), 60), (Some(3600), 900)] {
            let expiry = credentials.map(|seconds| now + Duration::from_secs(seconds));
            let expected = now + Duration::from_secs(expected);
            assert_eq!(token(None, expiry).expires, expected);
        }
    }

    #[test]
    fn a_region_has_one_source() {
        let tokens = |region: &str| {
            Tokens::of_msk(&AwsMskIam {
                region: region.to_owned(),
                trusted_ca: None,
            })
        };
        assert_eq!(tokens("eu-west-1"), tokens("eu-west-1"));
        assert_ne!(tokens("eu-west-1"), tokens("eu-west-2"));
    }
}
