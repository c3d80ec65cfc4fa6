//! pinpipe-emulator
fn main() {}
