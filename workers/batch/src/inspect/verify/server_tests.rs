//! Verifications, with real servers.
