//! Prints Grafana's JSON of all dashboards, or with `--write` updates the Helm chart's files.

use std::{error::Error, fs, path::Path};

use pinpipe_dashboards::{all, grafana};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/pinpipe/files/dashboards");
    let write = std::env::args().any(|argument| argument == "--write");
    for dashboard in all() {
        let json = serde_json::to_string_pretty(&grafana(&dashboard))? + "\n";
        if write {
            fs::write(folder.join(format!("{}.json", dashboard.uid)), json)?;
        } else {
            print!("{json}");
        }
    }
    Ok(())
}
