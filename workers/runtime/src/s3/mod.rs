//! Client for the object store.

mod checksums;
mod encryption;

use std::{fmt, time::Duration};

use anyhow::Result;
use aws_sdk_s3::{
    Client,
    config::{
        BehaviorVersion, Config, Credentials, Region, RequestChecksumCalculation,
        ResponseChecksumValidation, retry::RetryConfig, timeout::TimeoutConfig,
    },
    error::{ProvideErrorMetadata, SdkError},
    operation::create_bucket::CreateBucketError,
    types::{BucketLocationConstraint, CreateBucketConfiguration},
};

use crate::{
    aws::{default_chain, http_client, sentences},
    config::{S3, secret_file},
    failure::{self, Class},
};

use self::encryption::Encryption;

pub use checksums::{crc32, may_refuse_checksum, with_checksums};

/// The region for which `CreateBucket` must not contain a location constraint.
const DEFAULT_REGION: &str = "us-east-1";

/// Creates a client with the credentials read from their files, or else with those of AWS's default
/// provider chain. Sends no request.
///
/// With an endpoint, buckets are addressed by path, and checksums are sent only if the protocol
/// requires them: many servers other than AWS refuse the newer checksums.
pub async fn client(s3: &S3) -> Result<Client> {
    client_with(s3, true).await
}

/// As [`client`], but with an endpoint that may want buckets to be part of the host's name instead.
pub async fn client_with(s3: &S3, path_style: bool) -> Result<Client> {
    let region = Region::new(s3.region.clone());
    let http = http_client(s3.ca_file.as_deref(), s3.trusted_ca.as_ref())?;
    let mut config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(region.clone())
        .http_client(http)
        .retry_config(RetryConfig::standard().with_max_attempts(5))
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(Duration::from_secs(5))
                .operation_attempt_timeout(Duration::from_mins(1))
                .operation_timeout(Duration::from_mins(3))
                .build(),
        );
    config = if let Some(folder) = &s3.credentials_dir {
        let key_id = secret_file(&folder.join("accessKeyId"), None)?;
        let key = secret_file(&folder.join("secretAccessKey"), None)?;
        let token = folder.join("sessionToken");
        // Only temporary credentials have one.
        let token = token.exists().then(|| secret_file(&token, None));
        let token = token.transpose()?;
        config.credentials_provider(Credentials::new(key_id, key, token, None, "pinpipe"))
    } else {
        // The authorities of the store are not those of AWS's own services.
        let http = http_client(None, s3.trusted_ca.as_ref())?;
        config.credentials_provider(default_chain(region, http).await)
    };
    if let Some(key) = &s3.kms_key_id {
        config = config.interceptor(encryption::ByKey(key.clone()));
    }
    if let Some(endpoint) = &s3.endpoint {
        config = config
            .endpoint_url(endpoint)
            .force_path_style(path_style)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    }
    Ok(Client::from_conf(config.build()))
}

/// The response header in which S3 names a bucket's actual region.
const BUCKET_REGION: &str = "x-amz-bucket-region";

/// Creates the bucket if it does not exist. Safe to call from several workers at once.
pub async fn ensure_bucket(client: &Client, s3: &S3, bucket: &str) -> Result<(), RequestError> {
    let place = Place { s3, bucket };
    let Err(error) = client.head_bucket().bucket(bucket).send().await else {
        return Ok(());
    };
    let mut failure = Failure::from(&error);
    if failure.status.is_some_and(|status| status != 404) {
        // Only the answer to a GET request has the store's error code and message.
        let list = client.list_objects_v2().bucket(bucket).max_keys(1);
        let Err(error) = list.send().await else {
            return Ok(());
        };
        let region = failure.region;
        failure = Failure::from(&error);
        failure.region = failure.region.or(region);
    }
    if failure.status != Some(404) {
        return Err(failure.advice(place.unusable(&failure)));
    }
    match create_bucket(client, bucket).await {
        Ok(()) => {
            tracing::info!(bucket, "bucket created");
            Ok(())
        }
        Err(error)
            if error
                .as_service_error()
                .is_some_and(CreateBucketError::is_bucket_already_owned_by_you) =>
        {
            Ok(())
        }
        // Another worker may have created it in the meantime.
        Err(error) => {
            if client.head_bucket().bucket(bucket).send().await.is_ok() {
                return Ok(());
            }
            let failure = Failure::from(&error);
            Err(failure.advice(place.missing(&failure)))
        }
    }
}

async fn create_bucket(client: &Client, bucket: &str) -> Result<(), SdkError<CreateBucketError>> {
    let region = client
        .config()
        .region()
        .map(Region::as_ref)
        .filter(|region| *region != DEFAULT_REGION);
    let configuration = region.map(|region| {
        CreateBucketConfiguration::builder()
            .location_constraint(BucketLocationConstraint::from(region))
            .build()
    });
    client
        .create_bucket()
        .bucket(bucket)
        .set_create_bucket_configuration(configuration)
        .send()
        .await?;
    Ok(())
}

/// The error of a request for an object or a bucket.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct RequestError {
    /// How to go on.
    pub class: Class,
    /// The HTTP status. `None` if there was no response.
    pub status: Option<u16>,
    /// Whether the credentials have expired.
    pub has_expired: bool,
    message: String,
    /// Whether the message says what to do.
    is_advice: bool,
    encryption: Encryption,
}

impl RequestError {
    /// The error of a request for `key`. `what` completes the sentence: `can't be read`.
    pub fn new<E>(bucket: &str, key: &str, what: &'static str, error: &SdkError<E>) -> Self
    where
        E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
    {
        let failure = Failure::from(error);
        let mut failed = failure.error(format!("s3://{bucket}/{key} {what}: {}", failure.reason));
        let (code, sentence) = (error.code(), error.message());
        failed.encryption = Encryption::of(failure.status, code, sentence, (bucket, key));
        if failed.is_about_encryption() {
            failed.advise();
        }
        failed
    }

    /// The error of a request that asked for encryption, of which the store may say nothing.
    #[must_use]
    pub fn of_encryption(mut self) -> Self {
        if self.encryption == Encryption::Possible {
            self.advise();
        }
        self
    }

    /// Whether the message says what to do.
    #[must_use]
    pub const fn is_advice(&self) -> bool {
        self.is_advice
    }

    /// Whether the store says that it can't encrypt as `s3.serverSideEncryption` says.
    #[must_use]
    pub fn is_about_encryption(&self) -> bool {
        self.encryption == Encryption::Refused
    }

    fn advise(&mut self) {
        self.message = format!("{}: {}", self.message, encryption::ADVICE);
        self.is_advice = true;
    }
}

/// Why a request failed.
#[derive(Debug)]
struct Failure {
    class: Class,
    /// The HTTP status. `None` if there was no response.
    status: Option<u16>,
    /// Whether the credentials have expired.
    has_expired: bool,
    /// Whether the answer has neither an error code nor a message.
    is_unexplained: bool,
    /// The bucket's actual region, if the store names it.
    region: Option<String>,
    /// The store's error code and message, or the client's error without a response.
    reason: String,
}

impl<E> From<&SdkError<E>> for Failure
where
    E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
{
    fn from(error: &SdkError<E>) -> Self {
        let response = error.raw_response();
        let status = response.map(|response| response.status().as_u16());
        let reason = match (error.code(), error.message()) {
            (Some(code), Some(message)) => format!("{code}: {message}"),
            (Some(only), None) | (None, Some(only)) => only.to_owned(),
            // Responses to HEAD requests have no body.
            (None, None) => match status {
                Some(status) => format!("HTTP status {status} without a message"),
                None => sentences(error),
            },
        };
        Self {
            class: failure::of_s3(status, error.code()),
            status,
            has_expired: failure::has_expired(error.code()),
            is_unexplained: status.is_some() && error.code().or_else(|| error.message()).is_none(),
            region: response
                .and_then(|response| response.headers().get(BUCKET_REGION))
                .map(ToOwned::to_owned),
            reason,
        }
    }
}

impl Failure {
    const fn error(&self, message: String) -> RequestError {
        RequestError {
            class: self.class,
            status: self.status,
            has_expired: self.has_expired,
            message,
            is_advice: false,
            encryption: Encryption::Unrelated,
        }
    }

    /// The error with a message that says what to do.
    const fn advice(&self, message: String) -> RequestError {
        let mut error = self.error(message);
        error.is_advice = true;
        error
    }
}

/// What to do where the store wasn't reached, by parts of the client's error.
const ADVICE: [(&[&str], &str); 6] = [
    (
        &["InvalidContentType"],
        "the port answers without TLS; write http:// in s3.endpoint, or the port that has TLS",
    ),
    (
        &["credentials", "UnknownIssuer"],
        "the certificate of AWS's service for credentials is of an unknown authority, such as a \
         proxy's; add that authority to what trustedCASecretRef names",
    ),
    (
        &["credentials"],
        "without s3.credentialsSecretRef, the pods' ServiceAccount or node needs a role",
    ),
    (
        &["UnknownIssuer"],
        "its certificate is of an unknown authority; set s3.caSecretRef to the certificate of the \
         authority that issued it, or add it to what trustedCASecretRef names",
    ),
    (
        &["certificate not valid for name"],
        "its certificate is not for the host name of s3.endpoint; use a name that the certificate \
         has",
    ),
    (
        &["certificate: Expired"],
        "its certificate has expired; renew it, and check the clocks",
    ),
];

/// A bucket, for messages.
#[derive(Clone, Copy)]
struct Place<'a> {
    s3: &'a S3,
    bucket: &'a str,
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoint = self.s3.endpoint.as_deref().unwrap_or("AWS");
        let Self { s3, bucket } = self;
        write!(f, "bucket {bucket} at {endpoint} (region {})", s3.region)
    }
}

impl Place<'_> {
    /// Says why the bucket can't be checked, and what to do.
    fn unusable(&self, failure: &Failure) -> String {
        let Failure {
            status,
            region,
            reason,
            ..
        } = failure;
        match (*status, region) {
            (Some(301 | 307 | 400), Some(region)) if *region != self.s3.region => {
                format!("{self} is in another region ({reason}): set s3.region to {region}")
            }
            // What servers that expect TLS answer, if they do.
            (Some(400), _) if failure.is_unexplained && self.is_plain() => format!(
                "{self} can't be checked, {reason}: the port may require TLS: write https:// in \
                 s3.endpoint"
            ),
            (Some(301), _) => format!(
                "{self} is in another region or at another endpoint ({reason}): correct s3.region \
                 or s3.endpoint"
            ),
            (Some(403), _)
                if self.s3.credentials_dir.is_some()
                    && ["SignatureDoesNotMatch", "InvalidAccessKeyId"]
                        .iter()
                        .any(|code| reason.contains(code)) =>
            {
                format!(
                    "{self}: access denied ({reason}): correct the keys in the Secret that \
                     s3.credentialsSecretRef names"
                )
            }
            (Some(403), _) => format!(
                "{self}: access denied ({reason}): the credentials need s3:ListBucket on the \
                 bucket, or it belongs to another account"
            ),
            (Some(status), _) => format!(
                "{self} can't be checked, HTTP status {status} ({reason}): check s3.endpoint, \
                 s3.region and the credentials"
            ),
            (None, _) => {
                let mut known = ADVICE.iter();
                let advice =
                    known.find(|(parts, _)| parts.iter().all(|part| reason.contains(part)));
                let advice = advice.map_or(
                    "check that s3.endpoint is right and reachable from the cluster",
                    |(_, advice)| advice,
                );
                format!("{self} can't be reached: {reason}: {advice}")
            }
        }
    }

    fn is_plain(&self) -> bool {
        let endpoint = self.s3.endpoint.as_deref();
        endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"))
    }

    /// Says that the bucket neither exists nor can be created, and what to do.
    fn missing(&self, failure: &Failure) -> String {
        format!(
            "{self} does not exist and can't be created ({}): create it, or allow these \
             credentials s3:CreateBucket",
            failure.reason
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(status: Option<u16>, region: Option<&str>, reason: &str) -> Failure {
        Failure {
            class: failure::of_s3(status, None),
            status,
            has_expired: false,
            is_unexplained: reason.is_empty(),
            region: region.map(str::to_owned),
            reason: reason.to_owned(),
        }
    }

    #[test]
    fn each_failure_says_what_to_do() {
        let s3 = S3 {
            endpoint: Some("http://s3.example:9000".to_owned()),
            region: "eu-west-1".to_owned(),
            ..S3::default()
        };
        let place = Place {
            s3: &s3,
            bucket: "data",
        };
        for (failure, says) in [
            (
                failure(Some(301), Some("us-west-2"), "m"),
                "set s3.region to us-west-2",
            ),
            (
                failure(Some(400), Some("us-west-2"), "m"),
                "set s3.region to us-west-2",
            ),
            (
                failure(Some(301), None, "m"),
                "another region or at another endpoint (m)",
            ),
            (
                failure(Some(403), None, "AccessDenied: m"),
                "(AccessDenied: m): the credentials need s3:ListBucket",
            ),
            (failure(Some(400), None, "m"), "HTTP status 400 (m)"),
            (
                failure(Some(400), None, ""),
                "the port may require TLS: write https:// in s3.endpoint",
            ),
            (
                failure(Some(503), Some("eu-west-1"), "SlowDown: m"),
                "HTTP status 503 (SlowDown: m)",
            ),
            (
                failure(None, None, "connection refused"),
                "can't be reached: connection refused",
            ),
        ] {
            let message = place.unusable(&failure);
            let begins = "bucket data at http://s3.example:9000 (region eu-west-1)";
            assert!(
                message.starts_with(begins) && message.contains(says),
                "{message}"
            );
        }
    }

    #[test]
    fn a_missing_bucket_says_why_it_was_not_created() {
        let s3 = S3 {
            region: "eu-west-1".to_owned(),
            ..S3::default()
        };
        let place = Place {
            s3: &s3,
            bucket: "data",
        };
        let message = place.missing(&failure(Some(403), None, "AccessDenied: no"));
        assert!(
            message.starts_with("bucket data at AWS (region eu-west-1) does not exist")
                && message.contains("(AccessDenied: no)")
                && message.contains("s3:CreateBucket"),
            "{message}"
        );
    }
}
