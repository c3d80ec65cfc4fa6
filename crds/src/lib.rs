//! pinpipe-crds
