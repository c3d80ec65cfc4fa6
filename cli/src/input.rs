//! Files that commands read: named, in folders, or from standard input.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use crate::failure::Failure;

/// A file's content, and what to call the file in messages.
pub struct Input<T> {
    /// Name in messages.
    pub name: String,
    /// What the file holds.
    pub content: T,
}

/// Reads files and folders of YAML or JSON documents.
pub fn documents(paths: &[PathBuf]) -> Result<Vec<Input<String>>, Failure> {
    let mut inputs = Vec::new();
    for path in paths {
        if path.is_dir() {
            let files = files_in(path);
            let files = files.map_err(|error| unreadable(&path.display().to_string(), &error))?;
            if files.is_empty() {
                return Err(Failure::Usage(format!(
                    "{}: this folder has no .yaml, .yml or .json file",
                    path.display()
                )));
            }
            for file in files {
                inputs.push(text(&file)?);
            }
        } else {
            inputs.push(text(path)?);
        }
    }
    Ok(inputs)
}

/// Reads a file, or standard input by the name `-`.
pub fn bytes(path: &Path) -> Result<Input<Vec<u8>>, Failure> {
    let (name, content) = if path.as_os_str() == "-" {
        let mut content = Vec::new();
        let read = io::stdin().read_to_end(&mut content);
        ("<stdin>".to_owned(), read.map(|_| content))
    } else {
        (path.display().to_string(), fs::read(path))
    };
    match content {
        Ok(content) => Ok(Input { name, content }),
        Err(error) => Err(unreadable(&name, &error)),
    }
}

fn text(path: &Path) -> Result<Input<String>, Failure> {
    let Input { name, content } = bytes(path)?;
    match String::from_utf8(content) {
        Ok(content) => Ok(Input { name, content }),
        Err(_) => Err(Failure::Usage(format!("{name}: not UTF-8 text"))),
    }
}

fn unreadable(name: &str, error: &io::Error) -> Failure {
    Failure::Usage(format!("{name}: {error}"))
}

/// The files `kubectl apply -f FOLDER` reads, sorted by name: those of subfolders are not.
fn files_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if matches!(extension, Some("yaml" | "yml" | "json")) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
