//! Programs built from Go modules: kind, helm and promtool where the machine has none, and the
//! programs of a node image.
//!
//! All but helm and promtool come from one module, e2e/kind, so that they compile the Kubernetes
//! libraries once, in one version.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};

use crate::context::{Context, on_path};
use crate::fingerprint::Fingerprint;
use crate::step::step;

/// The folder of the module of nodes, and of kind.
const NODE: &str = "e2e/kind";
/// The folder of helm's module, which needs another version of the Kubernetes libraries.
const HELM: &str = "e2e/kind/helm";
/// The folder of promtool's module, with the unit tests of the rules.
const PROMTOOL: &str = "e2e/promtool";
/// Leaves the service discoveries of clouds out of promtool: they take longer to compile than all
/// else. No other program knows the tag.
const TAGS: &str = "remove_all_sd";
/// Packages whose variables hold the version that Kubernetes programs report.
const VERSION_VARIABLES: [&str; 2] = [
    "k8s.io/component-base/version",
    "k8s.io/client-go/pkg/version",
];
const KIND: Program = Program {
    name: "kind",
    package: "sigs.k8s.io/kind",
};

/// What to build. The last element of the package is the program's name.
#[derive(Clone, Copy)]
struct Program {
    name: &'static str,
    package: &'static str,
}

/// Go uses every core, and two builds at once would compile the packages they share twice.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// kind: the machine's own, or built.
pub fn kind(context: &Context) -> Result<()> {
    if on_path(KIND.name) {
        return Ok(());
    }
    build(context, NODE, &[KIND])
}

/// helm, where no finished one can be had.
pub fn helm(context: &Context) -> Result<()> {
    let helm = Program {
        name: "helm",
        package: "helm.sh/helm/v4/cmd/helm",
    };
    build(context, HELM, &[helm])
}

/// promtool, where no finished one can be had.
pub fn promtool(context: &Context) -> Result<()> {
    let promtool = Program {
        name: "promtool",
        package: "github.com/prometheus/prometheus/cmd/promtool",
    };
    build(context, PROMTOOL, &[promtool])
}

/// The programs of a node: etcd, `CoreDNS`, and `hyperkube`, which is all programs of Kubernetes.
pub fn node_programs(context: &Context) -> Result<()> {
    let program = |name, package| Program { name, package };
    let programs = [
        program("hyperkube", "./hyperkube"),
        program("etcd", "./etcd"),
        program("coredns", "./coredns"),
    ];
    build(context, NODE, &programs)
}

/// The version of Kubernetes a node image has, such as `v1.36.3`.
pub fn kubernetes_version(context: &Context) -> Result<String> {
    let file = context.root.join(NODE).join("go.mod");
    let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    let version = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes "));
    Ok(version
        .with_context(|| format!("{} does not require k8s.io/kubernetes", file.display()))?
        .to_owned())
}

/// The source of the kind module, which has the base files of a node image.
pub fn kind_source(context: &Context) -> Result<PathBuf> {
    require_go()?;
    step(
        context,
        "source of kind",
        "check that the Go module proxy can be reached",
        |log| {
            let mut go = context.command("go");
            go.current_dir(context.root.join(NODE)).args([
                "mod",
                "download",
                "-json",
                KIND.package,
            ]);
            let answer: serde_json::Value = serde_json::from_str(&log.output(&mut go)?)?;
            Ok(PathBuf::from(
                answer["Dir"]
                    .as_str()
                    .context("go mod download named no folder")?,
            ))
        },
    )
}

fn require_go() -> Result<()> {
    if !on_path("go") {
        bail!(
            "not found: go, to build what this machine lacks. Install Go 1.26 or newer, or \
             install kind, helm and promtool"
        );
    }
    Ok(())
}

/// Builds programs of a module into the cache's `bin`, by one command, except those that are there
/// and were built from the same inputs.
fn build(context: &Context, module: &str, programs: &[Program]) -> Result<()> {
    let _permit = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = context.root.join(module);
    let linked = linker_flags(&kubernetes_version(context)?);
    let stamp = |name: &str| context.cache.join("bin").join(format!(".{name}.key"));
    let mut missing = Vec::new();
    for program in programs {
        let mut key = Fingerprint::default()
            .path(&folder.join("go.mod"))?
            .path(&folder.join("go.sum"))?
            .text(program.package)
            .text(&linked);
        if program.package.starts_with("./") {
            key = key.path(&folder.join(program.package))?;
        }
        let key = key.finish();
        let built = fs::read_to_string(stamp(program.name)).is_ok_and(|built| built == key);
        if !built || !context.bin(program.name).is_file() {
            missing.push((*program, key));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    require_go()?;
    let names: Vec<&str> = missing.iter().map(|(program, _)| program.name).collect();
    let title = format!("Go programs {}", names.join(" "));
    let hint = "check that the Go module proxy can be reached and that the disk has 6 GB free; \
                packages that were compiled are kept";
    step(context, &title, hint, |log| {
        let finished = context.temporary_folder("go")?;
        log.download(|| {
            let mut go = context.command("go");
            // A static binary that is the same wherever the sources lie; -v prints each package
            // that is compiled, which shows progress.
            go.current_dir(&folder)
                .env("CGO_ENABLED", "0")
                .args(["build", "-v", "-trimpath", "-tags", TAGS])
                .args(["-ldflags", &linked, "-o"])
                .arg(&finished)
                .args(missing.iter().map(|(program, _)| program.package));
            go
        })?;
        for (program, key) in &missing {
            replace(&finished.join(program.name), &context.bin(program.name))?;
            fs::write(stamp(program.name), key)?;
        }
        Ok(())
    })
}

/// Leaves out debug information, and sets the version that Kubernetes programs report.
fn linker_flags(version: &str) -> String {
    let numbers: Vec<&str> = version.trim_start_matches('v').split('.').collect();
    let minor = numbers.get(1).copied().unwrap_or("0");
    let values = [
        ("gitVersion", version),
        ("gitMajor", numbers[0]),
        ("gitMinor", minor),
    ];
    let settings = VERSION_VARIABLES.iter().flat_map(|package| {
        values.map(|(variable, value)| format!("-X {package}.{variable}={value}"))
    });
    let flags: Vec<String> = ["-s", "-w"]
        .map(str::to_owned)
        .into_iter()
        .chain(settings)
        .collect();
    flags.join(" ")
}

/// Puts a finished file into place in one step; a program that runs from the old one goes on.
pub fn replace(finished: &Path, place: &Path) -> Result<()> {
    fs::rename(finished, place).with_context(|| format!("putting {} into place", place.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_report_the_version_of_kubernetes() {
        let flags = linker_flags("v1.36.3");
        assert!(flags.starts_with("-s -w -X k8s.io/component-base/version.gitVersion=v1.36.3"));
        assert!(flags.contains("k8s.io/client-go/pkg/version.gitMinor=36"));
    }
}
