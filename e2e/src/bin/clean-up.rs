//! Removes what earlier test runs left behind: their namespaces, and the topics, buckets, schemas
//! and keyspaces named after them.

use anyhow::Result;
use pinpipe_e2e::Sandbox;

#[tokio::main]
async fn main() -> Result<()> {
    Sandbox::remove_all_old().await
}
