//! Keys of what is kept in the cache: a hash of its inputs.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

/// Hashes inputs in the order given. Each is preceded by its length, so that different lists of
/// inputs have different hashes.
#[derive(Default)]
pub struct Fingerprint(Sha256);

impl Fingerprint {
    pub fn text(mut self, text: &str) -> Self {
        self.add(text.as_bytes());
        self
    }

    fn add(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_be_bytes());
        self.0.update(bytes);
    }

    /// Adds the content of a file, or the names and contents of a folder in the order of the names.
    pub fn path(mut self, path: &Path) -> Result<Self> {
        self.add_path(path)
            .with_context(|| format!("reading {}", path.display()))?;
        Ok(self)
    }

    fn add_path(&mut self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            let mut entries: Vec<_> = fs::read_dir(path)?.collect::<io::Result<_>>()?;
            entries.sort_by_key(fs::DirEntry::file_name);
            for entry in entries {
                self.add(entry.file_name().as_encoded_bytes());
                self.add_path(&entry.path())?;
            }
        } else {
            let mut file = File::open(path)?;
            let mut content = Sha256::new();
            io::copy(&mut file, &mut HashWriter(&mut content))?;
            self.add(&content.finalize());
        }
        Ok(())
    }

    /// The hash as twelve hexadecimal digits, which may be an image tag.
    pub fn finish(self) -> String {
        self.0
            .finalize()
            .iter()
            .take(6)
            .fold(String::new(), |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            })
    }
}

struct HashWriter<'a>(&'a mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_one_input_ends_matters() {
        let one = Fingerprint::default().text("ab").text("c").finish();
        let other = Fingerprint::default().text("a").text("bc").finish();
        assert_ne!(one, other);
        assert_eq!(one.len(), 12);
    }
}
