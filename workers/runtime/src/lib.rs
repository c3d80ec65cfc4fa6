//! pinpipe-runtime
