//! pinpipe-ingest
fn main() {}
