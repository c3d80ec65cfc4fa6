//! Traces, with real servers.
