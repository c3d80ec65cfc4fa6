//! The bucket of an import, if it isn't the archive's, and what is wrong with it.

use anyhow::{Context, Result};
use pinpipe_runtime::s3::{self, RequestError};

use crate::{
    failure::{InSource, Permanent, is_permanent},
    manifest::Source,
    store::Store,
};

/// Opens the bucket. Sends no request.
pub async fn open(source: &Source) -> Result<Store> {
    let folder = source.s3.credentials_dir.as_ref();
    if let Some(folder) = folder.filter(|_| source.has_own_keys) {
        if !folder.exists() {
            return Err(Permanent(format!(
                "this pod hasn't the Secret for the bucket {}, which only the import's own pods \
                 have",
                source.bucket
            ))
            .into());
        }
        for key in ["accessKeyId", "secretAccessKey"] {
            if !folder.join(key).exists() {
                return Err(Permanent(format!(
                    "no key {key} of the Secret for the bucket {}: correct \
                     import.s3.credentialsSecretRef, which names a Secret of the pipeline's \
                     namespace with accessKeyId and secretAccessKey",
                    source.bucket
                ))
                .into());
            }
        }
    }
    let client = s3::client_with(&source.s3, !source.virtual_host).await;
    let client = client.map_err(|error| {
        Permanent(format!(
            "import.s3.caSecretRef or import.s3.credentialsSecretRef can't be used: {error:#}"
        ))
    })?;
    Ok(Store::of_others(client, source.bucket.clone()))
}

/// Adds to an error of a request which field of the `PinterestRun` is at fault.
pub fn explain(source: &Source, error: anyhow::Error) -> anyhow::Error {
    let Some(request) = error.downcast_ref::<RequestError>() else {
        return error;
    };
    let advice = advice(source, request.status, &request.to_string());
    let endpoint = source.s3.endpoint.as_deref().unwrap_or("AWS");
    let message = format!(
        "the bucket {} at {endpoint} (region {}) can't be imported from: {advice}",
        source.bucket, source.s3.region
    );
    if is_permanent(&error) {
        return Permanent(format!("{message} ({error:#})")).into();
    }
    error.context(message)
}

/// What to do, by the HTTP status and the text of the store's answer.
fn advice(source: &Source, status: Option<u16>, reason: &str) -> &'static str {
    let says = |codes: &[&str]| codes.iter().any(|code| reason.contains(code));
    let has_secret = source.has_own_keys;
    match status {
        Some(404) if says(&["NoSuchKey"]) => "an object was deleted; start the import again",
        Some(404) => "there is no such bucket; correct import.bucket, or import.s3.endpoint",
        Some(301 | 307 | 400) if says(&["region", "Redirect", "AuthorizationHeaderMalformed"]) => {
            "it is in another region; correct import.s3.region, or import.s3.endpoint"
        }
        Some(_) if says(&["InvalidAccessKeyId", "SignatureDoesNotMatch"]) && has_secret => {
            "the store doesn't take these keys; correct the Secret that \
             import.s3.credentialsSecretRef names"
        }
        Some(_) if says(&["InvalidAccessKeyId", "SignatureDoesNotMatch"]) => {
            "the store doesn't take the archive's keys; set import.s3.credentialsSecretRef"
        }
        Some(_) if says(&["InvalidObjectState"]) => {
            "an object is of a class that must be restored before it is read; restore it"
        }
        Some(401 | 403) if has_secret => {
            "access is denied; allow the keys of import.s3.credentialsSecretRef s3:ListBucket and \
             s3:GetObject"
        }
        Some(401 | 403) => {
            "access is denied; set import.s3.credentialsSecretRef, or allow the pod's role \
             s3:ListBucket and s3:GetObject"
        }
        None if says(&["UnknownIssuer"]) => {
            "its certificate is of an unknown authority; set import.s3.caSecretRef"
        }
        None if says(&["credentials"]) => {
            "there are no credentials; set import.s3.credentialsSecretRef, or give the pod a role"
        }
        None if says(&["InvalidContentType"]) => {
            "the port answers without TLS; write http:// in import.s3.endpoint"
        }
        _ => "correct import.s3.endpoint, or try again later",
    }
}

/// The bucket that an import reads, with the store of the archive if it has none of its own.
pub async fn open_or(source: Option<&Source>, archive: &Store) -> Result<Store> {
    match source {
        Some(source) => open(source).await.context(InSource),
        None => Ok(archive.clone()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use pinpipe_config::S3;

    use super::*;

    #[test]
    fn each_mistake_names_the_value_at_fault() {
        for (status, reason, with_secret, value) in [
            (Some(404), "NoSuchBucket: x", true, "import.bucket"),
            (Some(301), "PermanentRedirect: x", true, "import.s3.region"),
            (
                Some(400),
                "AuthorizationHeaderMalformed: the region 'a' is wrong",
                true,
                "import.s3.region",
            ),
            (
                Some(403),
                "InvalidAccessKeyId: x",
                true,
                "correct the Secret that import.s3.credentialsSecretRef",
            ),
            (
                Some(403),
                "SignatureDoesNotMatch: x",
                false,
                "set import.s3.credentialsSecretRef",
            ),
            (Some(403), "AccessDenied: x", true, "s3:ListBucket"),
            (Some(403), "AccessDenied: x", false, "the pod's role"),
            (Some(403), "InvalidObjectState: x", true, "restore it"),
            (None, "UnknownIssuer", true, "import.s3.caSecretRef"),
            (
                None,
                "no credentials",
                false,
                "import.s3.credentialsSecretRef",
            ),
            (None, "connection refused", true, "import.s3.endpoint"),
        ] {
            let source = Source {
                bucket: "old".into(),
                s3: S3 {
                    credentials_dir: Some(PathBuf::from("x")),
                    ..S3::default()
                },
                has_own_keys: with_secret,
                virtual_host: false,
            };
            let advice = advice(&source, status, reason);
            assert!(advice.contains(value), "{reason}: {advice}");
        }
    }
}
