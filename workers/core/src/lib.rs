//! pinpipe-core
