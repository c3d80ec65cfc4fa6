//! pinpipe-e2e
