//! The pod's termination message: what Kubernetes keeps of a run.

use std::{fs, path::Path};

use tracing::warn;

/// Most bytes of a termination message. Kubernetes cuts a longer one off, which would break JSON.
pub const LIMIT: usize = 4096;

/// A text that fits into a termination message: `write` with the most bytes for its error message
/// for which it does.
pub fn fitting(write: impl Fn(usize) -> String) -> String {
    let mut bytes = LIMIT;
    loop {
        let text = write(bytes);
        if text.len() <= LIMIT || bytes == 0 {
            return text;
        }
        bytes /= 2;
    }
}

/// The beginning of a text.
pub fn shortened(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// Writes the pod's termination message. Outside of a pod there is no such file.
pub fn write(path: &Path, message: &str) {
    if path.exists()
        && let Err(error) = fs::write(path, message)
    {
        warn!(%error, path = %path.display(), "can't write the termination message");
    }
}
