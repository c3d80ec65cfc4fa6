//! pinpipe-stream
fn main() {}
