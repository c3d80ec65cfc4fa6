//! Prints the `CustomResourceDefinitions`, or with `--write` updates the committed copies.

use std::{error::Error, fs, path::Path};

/// Folders of the committed copies: the crate's, and the Helm chart's, which can only read its own
/// files.
const FOLDERS: [&str; 2] = ["", "../charts/pinpipe/files"];

fn main() -> Result<(), Box<dyn Error>> {
    let write = std::env::args().any(|argument| argument == "--write");
    for crd in pinpipe_crds::crds() {
        let yaml = pinpipe_crds::yaml(&crd)?;
        if !write {
            print!("---\n{yaml}");
            continue;
        }
        for folder in FOLDERS {
            let file = format!("{}.yaml", crd.spec.names.plural);
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
            fs::write(folder.join(file), &yaml)?;
        }
    }
    Ok(())
}
