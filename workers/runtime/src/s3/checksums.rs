//! Checksums of what is written, which a bucket with object lock asks for. Not every store other
//! than AWS knows them.

use std::{fs::File, io, path::Path};

use aws_sdk_s3::{Client, config::RequestChecksumCalculation};
use flate2::CrcReader;

use crate::failure::Class;

/// The client, with a checksum of all that it writes.
#[must_use]
pub fn with_checksums(client: &Client) -> Client {
    let config = client
        .config()
        .to_builder()
        .request_checksum_calculation(RequestChecksumCalculation::WhenSupported);
    Client::from_conf(config.build())
}

/// Whether the store may refuse the checksum of what is written rather than the request.
#[must_use]
pub fn may_refuse_checksum(status: Option<u16>, class: Class) -> bool {
    matches!(status, Some(400 | 501)) && class == Class::Halt
}

/// A file's CRC-32, as requests have it. Otherwise the client sends it behind the file, in an
/// encoding that fewer stores know. Blocks.
pub fn crc32(file: &Path) -> io::Result<String> {
    let mut reader = CrcReader::new(File::open(file)?);
    io::copy(&mut reader, &mut io::sink())?;
    let sum = reader.crc().sum().to_be_bytes();
    Ok(openssl::base64::encode_block(&sum))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::of_s3;

    #[test]
    fn only_a_refused_request_may_be_repeated_without_its_checksum() {
        for (status, code, expected) in [
            (400, Some("InvalidArgument"), true),
            (400, None, true),
            (501, Some("NotImplemented"), true),
            (400, Some("RequestTimeout"), false),
            (400, Some("BadDigest"), false),
            (400, Some("ExpiredToken"), false),
            (403, Some("AccessDenied"), false),
            (404, Some("NoSuchBucket"), false),
            (503, Some("SlowDown"), false),
        ] {
            let class = of_s3(Some(status), code);
            let may = may_refuse_checksum(Some(status), class);
            assert_eq!(may, expected, "{status} {code:?}");
        }
    }
}
