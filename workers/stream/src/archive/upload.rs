//! Uploads of large objects in parts.

use aws_sdk_s3::{
    Client,
    error::SdkError,
    operation::upload_part::UploadPartError,
    primitives::ByteStream,
    types::{ChecksumAlgorithm, CompletedPart},
};
use bytes::Bytes;

/// A multipart upload. It is aborted when dropped before its end, as after a revocation, so that
/// the store doesn't keep its parts.
pub struct Upload {
    client: Client,
    bucket: String,
    key: String,
    checksum: Option<ChecksumAlgorithm>,
    /// The upload's id.
    pub id: String,
    /// Whether the object is visible, or the upload aborted.
    pub ended: bool,
}

impl Upload {
    /// An upload that the store has created.
    pub fn new(
        (client, bucket): (&Client, &str),
        key: &str,
        checksum: Option<ChecksumAlgorithm>,
        id: String,
    ) -> Self {
        Self {
            client: client.clone(),
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            checksum,
            id,
            ended: false,
        }
    }

    /// Sends a part.
    pub async fn send(
        &self,
        number: i32,
        body: Bytes,
    ) -> Result<CompletedPart, SdkError<UploadPartError>> {
        let part = self
            .client
            .upload_part()
            .bucket(&self.bucket)
            .key(&self.key)
            .upload_id(&self.id);
        let sent = part
            .part_number(number)
            .set_checksum_algorithm(self.checksum.clone())
            .body(ByteStream::from(body))
            .send()
            .await?;
        Ok(CompletedPart::builder()
            .part_number(number)
            .set_e_tag(sent.e_tag)
            .set_checksum_crc32(sent.checksum_crc32)
            .build())
    }

    /// Aborts the upload, and waits for that: a process that ends doesn't wait for other tasks.
    pub async fn abort(mut self) {
        self.ended = true;
        self.request_to_abort().await;
    }

    fn request_to_abort(&self) -> impl Future<Output = ()> + Send + use<> {
        let abort = self
            .client
            .abort_multipart_upload()
            .bucket(&self.bucket)
            .key(&self.key)
            .upload_id(&self.id);
        let url = format!("s3://{}/{}", self.bucket, self.key);
        async move {
            if let Err(error) = abort.send().await {
                let error = anyhow::Error::new(error);
                tracing::debug!(
                    error = format!("{error:#}"),
                    url,
                    "a multipart upload could not be aborted"
                );
            }
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.ended
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(self.request_to_abort());
        }
    }
}
