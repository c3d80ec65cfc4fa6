//! The files of the checkout that checks read.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

/// A text file; its path is relative to the checkout.
pub struct File {
    pub path: String,
    pub text: String,
}

/// Folders with nothing written by hand, at any depth.
const SKIPPED: [&str; 3] = ["target", ".git", "node_modules"];

/// The files below a folder whose paths are wanted, in the order of their paths.
pub fn read(root: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<File>> {
    let mut found = Vec::new();
    collect(root, root, &wanted, &mut found)?;
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn collect(
    root: &Path,
    folder: &Path,
    wanted: &impl Fn(&str) -> bool,
    found: &mut Vec<File>,
) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let (entry, kind) = {
            let entry = entry?;
            let kind = entry.file_type()?;
            (entry.path(), kind)
        };
        let name = entry.file_name().unwrap_or_default();
        if kind.is_dir() {
            if !SKIPPED.iter().any(|skipped| name == *skipped) {
                collect(root, &entry, wanted, found)?;
            }
        } else if kind.is_file() {
            let path = entry.strip_prefix(root)?.to_string_lossy().into_owned();
            if wanted(&path) {
                let text = fs::read_to_string(&entry).with_context(|| format!("reading {path}"))?;
                found.push(File { path, text });
            }
        }
    }
    Ok(())
}

/// Whether a path ends with an extension.
pub fn has_extension(path: &str, extension: &str) -> bool {
    Path::new(path)
        .extension()
        .is_some_and(|found| found == extension)
}
