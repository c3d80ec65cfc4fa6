//! Prints the definition of `PinterestPipeline`, or with `--write` brings the committed copies up
//! to date.

use std::{error::Error, fs, path::Path};

/// The committed copies: the definition beside its crate, and the one Helm can reach from inside
/// the chart.
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
