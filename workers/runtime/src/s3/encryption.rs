//! Server-side encryption by a key of AWS's Key Management Service.

use aws_sdk_s3::{
    config::{
        ConfigBag, Intercept, RuntimeComponents,
        interceptors::BeforeSerializationInterceptorContextMut,
    },
    error::BoxError,
    operation::{create_multipart_upload::CreateMultipartUploadInput, put_object::PutObjectInput},
    types::ServerSideEncryption,
};

/// Sets the key of every request that begins to write an object, whoever makes it. The parts of an
/// upload are encrypted as its creation says.
#[derive(Debug)]
pub(super) struct ByKey(pub(super) String);

impl Intercept for ByKey {
    fn name(&self) -> &'static str {
        "ByKey"
    }

    fn modify_before_serialization(
        &self,
        context: &mut BeforeSerializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let input = context.input_mut();
        let (encryption, key) = if let Some(put) = input.downcast_mut::<PutObjectInput>() {
            (&mut put.server_side_encryption, &mut put.ssekms_key_id)
        } else if let Some(create) = input.downcast_mut::<CreateMultipartUploadInput>() {
            (
                &mut create.server_side_encryption,
                &mut create.ssekms_key_id,
            )
        } else {
            return Ok(());
        };
        *encryption = Some(ServerSideEncryption::AwsKms);
        *key = Some(self.0.clone());
        Ok(())
    }
}

/// Parts of what stores say who can't encrypt by the key, in lower case: `KMS.NotFoundException`,
/// `not authorized to perform: kms:GenerateDataKey`, `Server side encryption specified but KMS is
/// not configured`.
const REFUSALS: [&str; 2] = ["kms", "encryption"];

/// What to do where a store can't encrypt.
pub(super) const ADVICE: &str = "check s3.serverSideEncryption.kmsKeyId, that the store has this \
                                 key, and that the credentials may use it \
                                 (kms:GenerateDataKey and kms:Decrypt)";

/// Whether a store's error is about encryption.
pub(super) fn is_refused(reason: &str) -> bool {
    let reason = reason.to_lowercase();
    REFUSALS.iter().any(|refusal| reason.contains(refusal))
}

/// A store's error, and what to do where it is about encryption.
pub(super) fn advised(reason: String) -> String {
    if is_refused(&reason) {
        format!("{reason}: {ADVICE}")
    } else {
        reason
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_about_encryption_say_what_to_do() {
        for (reason, expected) in [
            ("KMS.NotFoundException: Invalid keyId", true),
            (
                "AccessDenied: User is not authorized to perform: kms:GenerateDataKey on resource",
                true,
            ),
            (
                "NotImplemented: Server side encryption specified but KMS is not configured",
                true,
            ),
            ("AccessDenied: Access Denied", false),
            ("SlowDown: Reduce your request rate", false),
        ] {
            let advised = advised(reason.to_owned());
            assert!(advised.starts_with(reason), "{advised}");
            assert_eq!(advised.contains("kmsKeyId"), expected, "{advised}");
        }
    }
}
