//! Removes what earlier test runs left: their namespaces, and what has their names in the stores.

use anyhow::Result;
use pinpipe_e2e::Sandbox;

#[tokio::main]
async fn main() -> Result<()> {
    Sandbox::remove_all_old().await
}
