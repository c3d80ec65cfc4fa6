//! `manifests/`: the operator's chart rendered with its default values, for `kubectl apply -k`.

use std::fs;

use anyhow::{Context as _, Result, ensure};

use crate::context::Context;
use crate::helm;
use crate::operator::NAMESPACE;
use crate::step::{Log, step};

/// The rendered file, relative to the checkout. The other files of its folder are written by hand.
const RENDERED: &str = "manifests/pinpipe.yaml";
/// Lines that name helm as the manager of the objects, which it isn't here.
const HELM_ONLY: [&str; 3] = [
    "app.kubernetes.io/managed-by: Helm",
    "helm.sh/chart: ",
    "# Source: ",
];

/// `cargo xtask manifests`.
pub fn write(context: &Context) -> Result<()> {
    helm::ensure(context)?;
    step(
        context,
        "render the manifests",
        "`helm lint charts/pinpipe` shows more",
        |log| {
            fs::write(context.root.join(RENDERED), render(context, log)?)
                .with_context(|| format!("writing {RENDERED}"))
        },
    )
}

/// Fails unless the committed file is what the chart renders.
pub fn check(context: &Context, log: &Log) -> Result<()> {
    let committed = fs::read_to_string(context.root.join(RENDERED))
        .with_context(|| format!("reading {RENDERED}"))?;
    let rendered = render(context, log)?;
    let differing = committed
        .lines()
        .zip(rendered.lines())
        .position(|(a, b)| a != b);
    let line =
        differing.unwrap_or_else(|| committed.lines().count().min(rendered.lines().count())) + 1;
    ensure!(
        committed == rendered,
        "{RENDERED} isn't what the chart renders, from line {line} on"
    );
    log.run(context.command("kubectl").args(["kustomize", "manifests"]))
}

fn render(context: &Context, log: &Log) -> Result<String> {
    let mut helm = context.command("helm");
    helm.args([
        "template",
        "pinpipe",
        "charts/pinpipe",
        "--namespace",
        NAMESPACE,
    ]);
    let rendered = log.output(&mut helm)?;
    let head = "# Rendered from charts/pinpipe by `cargo xtask manifests`; edit the chart instead.";
    Ok(plain(head, &rendered))
}

/// The rendered objects without what only concerns helm, and without the blank lines that some of
/// its versions put between objects.
fn plain(head: &str, rendered: &str) -> String {
    let ours = |line: &&str| {
        !HELM_ONLY
            .iter()
            .any(|helm| line.trim_start().starts_with(helm))
    };
    let mut plain = format!("{head}\n");
    for line in rendered.lines().filter(ours) {
        if line == "---" {
            plain.truncate(plain.trim_end().len());
            plain.push('\n');
        }
        plain.push_str(line);
        plain.push('\n');
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_depends_on_helm_is_left_out() {
        let rendered = "---\n# Source: pinpipe/templates/x.yaml\nmetadata:\n  labels:\n\
                        \x20   a: b\n    app.kubernetes.io/managed-by: Helm\n\
                        \x20   helm.sh/chart: pinpipe-0.1.0\n\n---\nkind: Role";
        assert_eq!(
            plain("# head", rendered),
            "# head\n---\nmetadata:\n  labels:\n    a: b\n---\nkind: Role\n"
        );
    }
}
