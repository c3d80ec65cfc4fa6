//! The crates of the build: a check of their licences and sources, and a bill of materials.
//!
//! `cargo metadata` lists them. Security advisories are not checked: cargo-deny and cargo-audit
//! take minutes to compile on a bare machine and download their database.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::context::Context;
use crate::step::{Log, step};

/// SPDX identifiers of the licences we accept: permissive ones that only require a notice.
const ACCEPTED: [&str; 9] = [
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Zlib",
];
/// The only source of crates besides the workspace.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// A crate of the build.
struct Package {
    name: String,
    version: String,
    licence: String,
    /// None for a crate of the workspace.
    source: Option<String>,
}

/// Fails unless every crate comes from crates.io and has a licence that we accept.
pub fn check(context: &Context, log: &Log) -> Result<()> {
    let packages = packages(context, log)?;
    let wrong: BTreeSet<String> = packages
        .iter()
        .filter_map(|package| {
            let Package {
                name,
                version,
                licence,
                source,
            } = package;
            if !is_accepted(licence) {
                return Some(format!(
                    "{name} {version}: the licence `{licence}` is not among those accepted"
                ));
            }
            let source = source.as_deref().filter(|source| *source != REGISTRY)?;
            Some(format!("{name} {version} comes from {source}"))
        })
        .collect();
    for line in &wrong {
        log.line(line);
    }
    ensure!(
        wrong.is_empty(),
        "{} of {} crates: {}",
        wrong.len(),
        packages.len(),
        Vec::from_iter(&wrong)[0]
    );
    Ok(())
}

/// `cargo xtask sbom`: a bill of materials in `CycloneDX` 1.5.
pub fn write_bill(context: &Context, file: &Path) -> Result<()> {
    let packages = step(
        context,
        "bill of materials",
        "cargo metadata --locked",
        |log| packages(context, log),
    )?;
    let components: Vec<Value> = packages.iter().map(component).collect();
    let bill = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {
            "type": "application",
            "name": "pinpipe",
            "version": env!("CARGO_PKG_VERSION"),
        }},
        "components": components,
    });
    fs::write(file, serde_json::to_string_pretty(&bill)? + "\n")
        .with_context(|| format!("writing {}", file.display()))
}

fn component(package: &Package) -> Value {
    let Package {
        name,
        version,
        licence,
        source,
    } = package;
    let mut component = json!({
        "type": "library",
        "name": name,
        "version": version,
        "licenses": [{"expression": licence.replace(" / ", "/").replace('/', " OR ")}],
    });
    if source.is_some() {
        component["purl"] = json!(format!("pkg:cargo/{name}@{version}"));
        component["bom-ref"] = component["purl"].clone();
    }
    component
}

/// All crates of the build for [`TARGET`], including those of tests and build scripts.
fn packages(context: &Context, log: &Log) -> Result<Vec<Package>> {
    let mut cargo = context.cargo();
    cargo.args([
        "metadata",
        "--format-version",
        "1",
        "--locked",
        "--filter-platform",
        TARGET,
    ]);
    let metadata: Value = serde_json::from_str(&log.output(&mut cargo)?)?;
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata names no packages")?;
    let text = |package: &Value, key: &str| package[key].as_str().unwrap_or_default().to_owned();
    let packages = packages.iter().map(|package| Package {
        name: text(package, "name"),
        version: text(package, "version"),
        licence: text(package, "license"),
        source: package["source"].as_str().map(str::to_owned),
    });
    Ok(packages.collect())
}

/// Whether licences we accept satisfy an SPDX expression. `/` is an older form of `OR`.
fn is_accepted(expression: &str) -> bool {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ")
        .replace(" WITH ", "-WITH-");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let (met, rest) = any_of(&tokens);
    met && rest.is_empty() && !tokens.is_empty()
}

fn any_of<'a, 'b>(tokens: &'b [&'a str]) -> (bool, &'b [&'a str]) {
    let (mut met, mut rest) = all_of(tokens);
    while let Some((&"OR", behind)) = rest.split_first() {
        let (also, behind) = all_of(behind);
        (met, rest) = (met || also, behind);
    }
    (met, rest)
}

fn all_of<'a, 'b>(tokens: &'b [&'a str]) -> (bool, &'b [&'a str]) {
    let (mut met, mut rest) = one(tokens);
    while let Some((&"AND", behind)) = rest.split_first() {
        let (also, behind) = one(behind);
        (met, rest) = (met && also, behind);
    }
    (met, rest)
}

fn one<'a, 'b>(tokens: &'b [&'a str]) -> (bool, &'b [&'a str]) {
    match tokens.split_first() {
        Some((&"(", inside)) => {
            let (met, rest) = any_of(inside);
            // An unclosed group is no valid expression.
            rest.split_first()
                .filter(|(token, _)| **token == ")")
                .map_or((false, &[][..]), |(_, rest)| (met, rest))
        }
        Some((token, rest)) => (
            ACCEPTED.contains(&token.replace("-WITH-", " WITH ").as_str()),
            rest,
        ),
        None => (false, tokens),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_met_by_accepted_licences_alone() {
        for (expression, expected) in [
            ("MIT", true),
            ("MIT/Apache-2.0", true),
            ("Apache-2.0 / MIT", true),
            ("GPL-3.0 OR MIT", true),
            ("GPL-3.0 AND MIT", false),
            ("GPL-3.0", false),
            ("", false),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
            ("(MIT OR Apache-2.0) AND GPL-3.0", false),
            ("MIT OR Apache-2.0 AND GPL-3.0", true),
            ("Apache-2.0 WITH LLVM-exception OR GPL-3.0", true),
            ("GPL-3.0 WITH Classpath-exception-2.0", false),
            ("(MIT", false),
            ("MIT GPL-3.0", false),
        ] {
            assert_eq!(is_accepted(expression), expected, "{expression}");
        }
    }

    #[test]
    fn a_bill_names_where_a_crate_is_found() {
        let package = |source: Option<&str>| Package {
            name: "kube".to_owned(),
            version: "5.0.0".to_owned(),
            licence: "MIT/Apache-2.0".to_owned(),
            source: source.map(str::to_owned),
        };
        let found = component(&package(Some(REGISTRY)));
        assert_eq!(
            (&found["purl"], &found["licenses"][0]["expression"]),
            (&json!("pkg:cargo/kube@5.0.0"), &json!("MIT OR Apache-2.0"))
        );
        assert!(component(&package(None))["purl"].is_null());
    }
}
