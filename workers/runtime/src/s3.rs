//! The object store.

use std::time::Duration;

use anyhow::{Context, Result};
use aws_sdk_s3::{
    Client,
    config::{
        BehaviorVersion, Config, Credentials, Region, RequestChecksumCalculation,
        ResponseChecksumValidation, retry::RetryConfig, timeout::TimeoutConfig,
    },
    error::DisplayErrorContext,
    operation::{create_bucket::CreateBucketError, head_bucket::HeadBucketError},
    types::{BucketLocationConstraint, CreateBucketConfiguration},
};
use aws_smithy_http_client::{
    Builder,
    tls::{Provider, rustls_provider::CryptoMode},
};

use crate::config::{S3, secret_file};

/// The region in which a bucket is made by naming none.
const DEFAULT_REGION: &str = "us-east-1";

/// A client of the store, with the credentials read from their files now. Nothing is sent yet.
///
/// With an endpoint, buckets are addressed by path, and checksums are sent only where the protocol
/// asks for one: many servers other than AWS refuse the newer ones.
pub fn client(s3: &S3) -> Result<Client> {
    let key_id = secret_file(&s3.credentials_dir.join("accessKeyId"))?;
    let key = secret_file(&s3.credentials_dir.join("secretAccessKey"))?;
    let http = Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .build_https();
    let mut config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(s3.region.clone()))
        .credentials_provider(Credentials::new(key_id, key, None, None, "pinpipe"))
        .http_client(http)
        .retry_config(RetryConfig::standard().with_max_attempts(5))
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(Duration::from_secs(5))
                .operation_attempt_timeout(Duration::from_mins(1))
                .operation_timeout(Duration::from_mins(3))
                .build(),
        );
    if let Some(endpoint) = &s3.endpoint {
        config = config
            .endpoint_url(endpoint)
            .force_path_style(true)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    }
    Ok(Client::from_conf(config.build()))
}

/// Makes the bucket where it is absent. Two workers may do so at once: what counts is that it is
/// there in the end.
pub async fn ensure_bucket(client: &Client, bucket: &str) -> Result<()> {
    let Err(missing) = client.head_bucket().bucket(bucket).send().await else {
        return Ok(());
    };
    if !missing
        .as_service_error()
        .is_some_and(HeadBucketError::is_not_found)
    {
        return Err(anyhow::anyhow!("{}", DisplayErrorContext(&missing))).with_context(|| {
            format!("bucket {bucket}: the store can't tell whether it is there; check endpoint and credentials")
        });
    }
    let region = client
        .config()
        .region()
        .map(Region::as_ref)
        .filter(|region| *region != DEFAULT_REGION);
    let place = region.map(|region| {
        CreateBucketConfiguration::builder()
            .location_constraint(BucketLocationConstraint::from(region))
            .build()
    });
    match client
        .create_bucket()
        .bucket(bucket)
        .set_create_bucket_configuration(place)
        .send()
        .await
    {
        Ok(_) => {
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
        Err(error) => match client.head_bucket().bucket(bucket).send().await {
            Ok(_) => Ok(()),
            Err(_) => Err(anyhow::anyhow!("{}", DisplayErrorContext(&error))).with_context(|| {
                format!(
                    "bucket {bucket} can't be created: create it, or allow these credentials to"
                )
            }),
        },
    }
}
