//! pinpipe-batch
fn main() {}
