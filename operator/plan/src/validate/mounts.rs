//! Keys of Secrets, which are also the names of the files that workers read.

/// Keys of an S3 Secret.
pub(super) const S3_KEYS: [&str; 2] = ["accessKeyId", "secretAccessKey"];
/// Key of an S3 Secret that only temporary credentials have.
pub(super) const S3_SESSION_TOKEN: &str = "sessionToken";
/// Keys of a user's Secret.
pub(super) const USER_KEYS: [&str; 2] = ["username", "password"];
/// Keys of a client certificate's Secret.
pub(super) const CERTIFICATE_KEYS: [&str; 2] = ["tls.crt", "tls.key"];

/// Keys that are mounted as files of the same names.
pub(super) fn same_names(keys: [&str; 2]) -> Vec<(String, String)> {
    keys.map(|key| (key.to_owned(), key.to_owned())).into()
}
