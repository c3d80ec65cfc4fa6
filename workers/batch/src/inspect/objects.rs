//! Reads a raw object of the archive.

use anyhow::Result;
use pinpipe_core::Kind;

use crate::{
    decode::Records,
    manifest::{Format, RawObject, Window},
    read::Lines,
    retry::{RETRY_TIMEOUT, retry},
    store::Store,
};

/// What `records`, as it is at the beginning of the object, becomes by all of its lines.
pub async fn read<R: Records + Clone>(
    store: &Store,
    kind: Kind,
    partition: i32,
    key: &str,
    records: &R,
) -> Result<R> {
    let object = RawObject {
        kind,
        partition,
        key: key.to_owned(),
        format: Format::Archive,
    };
    let all = Window {
        offsets: i64::MIN..i64::MAX,
        times: i64::MIN..i64::MAX,
    };
    retry(RETRY_TIMEOUT, "reading a raw object", || async {
        let mut lines = Lines::open(store, &object, &all, records.clone()).await?;
        while lines.read().await? {
            tokio::task::yield_now().await;
        }
        lines.finish()
    })
    .await
}
