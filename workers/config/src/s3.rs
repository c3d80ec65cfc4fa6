//! Object stores.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::TrustedCa;

/// An S3 endpoint and its credentials.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct S3 {
    /// URL of an S3 server other than AWS, `http://host:port`. Buckets are then addressed by path
    /// rather than by virtual host. AWS if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The region. Most servers other than AWS accept `us-east-1`.
    pub region: String,
    /// A directory with the files `accessKeyId`, `secretAccessKey`, and of temporary credentials
    /// `sessionToken`. AWS's default provider chain if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_dir: Option<PathBuf>,
    /// A file with the PEM certificates of the authorities to trust. The public ones if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Authorities to trust besides the public ones: those of the store where there is no
    /// `ca_file`, and those of AWS's services that give credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trusted_ca: Option<TrustedCa>,
    /// The key of AWS KMS that objects are encrypted with when they are written. As the bucket
    /// says if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kms_key_id: Option<String>,
}
