//! Prints the `CustomResourceDefinition` of `PinterestPipeline`, or with `--write` updates the
//! committed copies.

use std::{error::Error, fs, path::Path};

/// The committed copies: beside the crate, and in the Helm chart, which can only read its own
/// files.
const COPIES: [&str; 2] = [
    "pinterestpipelines.yaml",
    "../charts/pinpipe/files/pinterestpipelines.yaml",
];

fn main() -> Result<(), Box<dyn Error>> {
    let yaml = pinpipe_crds::yaml()?;
    if std::env::args().any(|argument| argument == "--write") {
        for copy in COPIES {
            fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join(copy), &yaml)?;
        }
    } else {
        print!("{yaml}");
    }
    Ok(())
}
