//! pinpipe-operator
fn main() {}
