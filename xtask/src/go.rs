//! Programs built from Go modules: kind and helm where the machine has none, and what a node image
//! is made of.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::context::{Context, on_path};
use crate::fingerprint::Fingerprint;
use crate::step::step;

/// What to build: a package, named as in its module under e2e/kind.
struct Program {
    name: &'static str,
    module: &'static str,
    package: &'static str,
    /// Packages whose variables hold the version it reports, Kubernetes' own.
    version_variables: &'static [&'static str],
}

const fn program(name: &'static str, module: &'static str, package: &'static str) -> Program {
    Program {
        name,
        module,
        package,
        version_variables: &[],
    }
}

const KIND: Program = program("kind", "tools", "sigs.k8s.io/kind");
const HELM: Program = program("helm", "tools", "helm.sh/helm/v4/cmd/helm");
const ETCD: Program = program("etcd", "etcd", ".");
const COREDNS: Program = program("coredns", "coredns", ".");
const HYPERKUBE: Program = Program {
    version_variables: &[
        "k8s.io/component-base/version",
        "k8s.io/client-go/pkg/version",
    ],
    ..program("hyperkube", "kubernetes", ".")
};

/// kind and helm: the machine's own, or built.
pub fn tools(context: &Context) -> Result<()> {
    for tool in [KIND, HELM] {
        if !on_path(tool.name) {
            build(context, &tool)?;
        }
    }
    Ok(())
}

/// The servers of a node that are small, built one after the other.
pub fn node_servers(context: &Context) -> Result<()> {
    build(context, &ETCD)?;
    build(context, &COREDNS)
}

/// All programs of Kubernetes in one binary, `hyperkube`.
pub fn kubernetes(context: &Context) -> Result<()> {
    build(context, &HYPERKUBE)
}

/// The version of Kubernetes a node image has, such as `v1.36.3`.
pub fn kubernetes_version(context: &Context) -> Result<String> {
    version_of(context, HYPERKUBE.module, "k8s.io/kubernetes")
}

fn module_folder(context: &Context, module: &str) -> PathBuf {
    context.root.join("e2e/kind").join(module)
}

fn version_of(context: &Context, module: &str, dependency: &str) -> Result<String> {
    let file = module_folder(context, module).join("go.mod");
    let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    let version = text
        .lines()
        .find_map(|line| line.trim().strip_prefix(dependency)?.strip_prefix(' '));
    Ok(version
        .with_context(|| format!("{} does not require {dependency}", file.display()))?
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
            go.current_dir(module_folder(context, KIND.module)).args([
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
            "not found: go, to build what this machine lacks. Install Go 1.26 or newer, or install kind and helm"
        );
    }
    Ok(())
}

/// Builds a program into the cache's `bin`, unless the one there was made from the same module.
fn build(context: &Context, program: &Program) -> Result<()> {
    require_go()?;
    let folder = module_folder(context, program.module);
    let linked = linker_flags(program, &kubernetes_version(context)?);
    let key = Fingerprint::default()
        .path(&folder)?
        .text(program.package)
        .text(&linked)
        .finish();
    let (binary, stamp) = (
        context.bin(program.name),
        context
            .cache
            .join("bin")
            .join(format!(".{}.key", program.name)),
    );
    if binary.is_file() && fs::read_to_string(&stamp).is_ok_and(|made| made == key) {
        return Ok(());
    }
    let hint = "check that the Go module proxy can be reached and that the disk has 6 GB free; what was built is kept";
    step(
        context,
        &format!("Go program {}", program.name),
        hint,
        |log| {
            let finished = context.temporary_folder(program.name)?.join(program.name);
            log.download(|| {
                let mut go = context.command("go");
                // A static binary that is the same wherever the sources lie; -v names what is
                // compiled, which shows progress.
                go.current_dir(&folder).env("CGO_ENABLED", "0").args([
                    "build",
                    "-v",
                    "-trimpath",
                    "-ldflags",
                    &linked,
                    "-o",
                ]);
                go.arg(&finished).arg(program.package);
                go
            })?;
            replace(&finished, &binary)?;
            Ok(fs::write(&stamp, key)?)
        },
    )
}

/// Leaves out debug information, and sets the version that Kubernetes programs report.
fn linker_flags(program: &Program, version: &str) -> String {
    let numbers: Vec<&str> = version.trim_start_matches('v').split('.').collect();
    let minor = numbers.get(1).copied().unwrap_or("0");
    let values = [
        ("gitVersion", version),
        ("gitMajor", numbers[0]),
        ("gitMinor", minor),
    ];
    let settings = program.version_variables.iter().flat_map(|package| {
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
fn replace(finished: &Path, place: &Path) -> Result<()> {
    fs::rename(finished, place).with_context(|| format!("putting {} into place", place.display()))
}
