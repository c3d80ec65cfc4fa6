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

use crate::failure::{Class, of_s3};

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

/// What a refused request has to do with encryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encryption {
    /// The store says that it can't encrypt.
    Refused,
    /// The store doesn't say what is wrong; it may be that it can't encrypt.
    Possible,
    /// Nothing.
    Unrelated,
}

/// Parts of what stores say who can't encrypt by the key, in lower case: `KMS.NotFoundException`,
/// `not authorized to perform: kms:GenerateDataKey`, `Server side encryption specified but KMS is
/// not configured`.
const REFUSALS: [&str; 2] = ["kms", "encryption"];

/// What to do where a store can't encrypt.
pub(super) const ADVICE: &str = "check s3.serverSideEncryption.kmsKeyId, that the store has this \
                                 key, and that the credentials may use it \
                                 (kms:GenerateDataKey and kms:Decrypt)";

impl Encryption {
    /// Judges by the HTTP status and the store's own code and sentence. The bucket and the key,
    /// which the sentence may contain, may be called anything.
    pub(super) fn of(
        status: Option<u16>,
        code: Option<&str>,
        sentence: Option<&str>,
        (bucket, key): (&str, &str),
    ) -> Self {
        let sentence = sentence.unwrap_or_default();
        let sentence = sentence.replace(key, "").replace(bucket, "");
        let words = sentence.split_whitespace();
        // So may be the roles and resources that it names.
        let words = words.filter(|word| !word.contains("arn:") && !word.contains('/'));
        let is_refusal = |text: &str| {
            let text = text.to_lowercase();
            REFUSALS.iter().any(|refusal| text.contains(refusal))
        };
        if words.chain(code).any(is_refusal) {
            return Self::Refused;
        }
        match (status, code) {
            (Some(400), _) if of_s3(status, code) == Class::Halt => Self::Possible,
            // SeaweedFS answers 500 where it has no keys at all.
            (Some(403), None | Some("AccessDenied"))
            | (Some(500), Some("InternalError"))
            | (Some(501), _) => Self::Possible,
            _ => Self::Unrelated,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_s_code_and_sentence_tell_whether_it_can_encrypt() {
        use Encryption::{Possible, Refused, Unrelated};
        let arn = "arn:aws:iam::1:role/kms is not authorized to perform:";
        let denied =
            |action| format!("User: {arn} {action} on \"arn:aws:s3:::my-kms/encryption/1\"");
        let (put, generate) = (denied("s3:PutObject"), denied("kms:GenerateDataKey"));
        let unset = "Server side encryption specified but KMS is not configured";
        for (status, code, sentence, expected) in [
            (400, "KMS.NotFoundException", "Invalid keyId", Refused),
            (403, "AccessDenied", &generate, Refused),
            (501, "NotImplemented", unset, Refused),
            (
                400,
                "InvalidArgument",
                "server side encryption: no such key",
                Refused,
            ),
            (403, "AccessDenied", &put, Possible),
            (403, "AccessDenied", "Access Denied", Possible),
            (403, "", "", Possible),
            (400, "InvalidArgument", "Bad header", Possible),
            (
                500,
                "InternalError",
                "We encountered an internal error",
                Possible,
            ),
            (501, "NotImplemented", "Not implemented", Possible),
            (403, "InvalidAccessKeyId", "No such key", Unrelated),
            (403, "SignatureDoesNotMatch", "Check your key", Unrelated),
            (403, "RequestTimeTooSkewed", "The times differ", Unrelated),
            (400, "ExpiredToken", "The token has expired", Unrelated),
            (400, "RequestTimeout", "Not read from in time", Unrelated),
            (404, "NoSuchBucket", "my-kms does not exist", Unrelated),
            (412, "PreconditionFailed", "Exists", Unrelated),
            (
                503,
                "SlowDown",
                "Reduce your rate for encryption/1 in my-kms",
                Unrelated,
            ),
        ] {
            let [of_code, of_sentence] =
                [code, sentence].map(|text| Some(text).filter(|text| !text.is_empty()));
            let names = ("my-kms", "encryption/1");
            let found = Encryption::of(Some(status), of_code, of_sentence, names);
            assert_eq!(found, expected, "{status} {code}: {sentence}");
        }
        let unreachable = Encryption::of(None, None, None, ("my-kms", "encryption/1"));
        assert_eq!(unreachable, Unrelated);
    }
}
