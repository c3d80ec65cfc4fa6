//! The modules of a crate import each other in one direction: no cycle among its files.
//!
//! A file is a node. A module and those below it may refer to each other, so these edges don't
//! count; neither does what only tests use.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::Result;

use super::files::{self, File};
use super::paths;
use crate::step::Log;

/// The sources that are checked; one that isn't there is skipped.
const CHECKED: [&str; 4] = ["crds/src", "operator/src", "operator/plan/src", "cli/src"];
/// Crates below this folder are checked, too.
const WORKERS: &str = "workers";

/// The crate whose graph is also printed.
const PRINTED: &str = "operator/src";

/// A node is named by its path: `a::b` for src/a/b.rs, nothing for the crate's root.
type Graph = BTreeMap<String, BTreeSet<String>>;

/// A line for each cycle. The log gets each crate's graph.
pub fn findings(root: &Path, log: &Log) -> Result<Vec<String>> {
    let mut sources = CHECKED.map(str::to_owned).to_vec();
    for worker in fs::read_dir(root.join(WORKERS))? {
        let name = worker?.file_name();
        sources.push(format!("{WORKERS}/{}/src", name.to_string_lossy()));
    }
    sources.sort();
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| root.join(source).is_dir()) {
        let files = files::read(&root.join(source), |path| {
            files::has_extension(path, "rs") && !path.starts_with("bin/")
        })?;
        let graph = graph(&files);
        log.line(source);
        for (module, imports) in &graph {
            let imports: Vec<&str> = imports.iter().map(|name| shown(name)).collect();
            let line = format!("  {} -> {}", shown(module), imports.join(" "));
            log.line(&line);
            if source == PRINTED {
                println!("   {line}");
            }
        }
        let cycles = cycles(&graph);
        found.extend(cycles.iter().map(|cycle| format!("{source}: {cycle}")));
    }
    Ok(found)
}

fn shown(module: &str) -> &str {
    if module.is_empty() { "crate" } else { module }
}

/// The path of the module in a file: src/a/mod.rs and src/a.rs are both `a`.
fn module(path: &str) -> Vec<String> {
    let mut names: Vec<String> = path
        .trim_end_matches(".rs")
        .split('/')
        .map(str::to_owned)
        .collect();
    let is_root = names.len() == 1 && ["main", "lib"].contains(&names[0].as_str());
    if is_root || names.last().is_some_and(|name| name == "mod") {
        names.pop();
    }
    names
}

fn graph(files: &[File]) -> Graph {
    let read: Vec<_> = files
        .iter()
        .map(|file| {
            let module = module(&file.path);
            let uses = paths::read(&file.text, &module);
            (module, uses)
        })
        .collect();
    let tests: Vec<Vec<String>> = read
        .iter()
        .flat_map(|(module, uses)| uses.test_modules.iter().map(|test| child(module, test)))
        .collect();
    let is_test = |module: &[String]| tests.iter().any(|test| module.starts_with(test));
    let nodes: BTreeSet<&Vec<String>> = read.iter().map(|(module, _)| module).collect();
    let mut graph = Graph::new();
    for (module, uses) in read.iter().filter(|(module, _)| !is_test(module)) {
        let imports = graph.entry(module.join("::")).or_default();
        for path in &uses.paths {
            // The deepest module of the path; what follows are items.
            let target = (0..=path.len())
                .rev()
                .map(|length| path[..length].to_vec())
                .find(|prefix| nodes.contains(prefix))
                .unwrap_or_default();
            let are_related = target.starts_with(module) || module.starts_with(&target);
            if !are_related && !is_test(&target) {
                imports.insert(target.join("::"));
            }
        }
    }
    graph
}

fn child(module: &[String], name: &str) -> Vec<String> {
    [module, &[name.to_owned()]].concat()
}

/// A shortest cycle through each module that has one, each cycle once.
fn cycles(graph: &Graph) -> Vec<String> {
    let mut found: BTreeMap<BTreeSet<&str>, String> = BTreeMap::new();
    for start in graph.keys() {
        if let Some(cycle) = cycle(graph, start) {
            found
                .entry(cycle.iter().copied().collect())
                .or_insert_with(|| cycle.join(" -> "));
        }
    }
    found.into_values().collect()
}

/// The shortest way from a module back to itself, by breadth-first search.
fn cycle<'a>(graph: &'a Graph, start: &'a str) -> Option<Vec<&'a str>> {
    let mut ways: Vec<Vec<&str>> = vec![vec![start]];
    let mut reached = BTreeSet::new();
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            let last = way.last().copied().unwrap_or(start);
            for next in graph.get(last).into_iter().flatten() {
                let way = [way.as_slice(), &[next.as_str()]].concat();
                if next == start {
                    return Some(way);
                }
                if reached.insert(next.as_str()) {
                    longer.push(way);
                }
            }
        }
        ways = longer;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(files: &[(&str, &str)]) -> Graph {
        let files: Vec<File> = files
            .iter()
            .map(|(path, text)| File {
                path: (*path).to_owned(),
                text: (*text).to_owned(),
            })
            .collect();
        graph(&files)
    }

    #[test]
    fn a_cycle_is_named() {
        let graph = of(&[
            ("main.rs", "mod a; mod b; use a::A;"),
            ("a/mod.rs", "mod c; use crate::b::B;"),
            ("a/c.rs", "use crate::b::D; use super::A;"),
            ("b.rs", "use crate::a::c::{self, E};"),
        ]);
        assert_eq!(graph["a"], BTreeSet::from(["b".to_owned()]));
        assert_eq!(cycles(&graph), ["a::c -> b -> a::c"]);
    }

    #[test]
    fn parents_children_and_tests_are_no_cycles() {
        let graph = of(&[
            ("lib.rs", "pub mod a; pub mod b; pub struct X; use a::c;"),
            ("a/mod.rs", "mod c; #[cfg(test)] mod tests; use self::c::C;"),
            ("a/c.rs", "use super::A; use crate::X;"),
            ("a/tests.rs", "use crate::b;"),
            (
                "b.rs",
                "use crate::a::A; #[cfg(test)] mod t { use crate::a; }",
            ),
        ]);
        assert_eq!(cycles(&graph), Vec::<String>::new());
        assert!(!graph.contains_key("a::tests"));
        assert_eq!(graph["b"], BTreeSet::from(["a".to_owned()]));
    }

    #[test]
    fn siblings_that_import_each_other_are_a_cycle() {
        let graph = of(&[
            ("a/mod.rs", "mod b; mod c;"),
            ("a/b.rs", "fn f() { super::c::g() }"),
            ("a/c.rs", "use super::b;"),
        ]);
        assert_eq!(cycles(&graph), ["a::b -> a::c -> a::b"]);
    }
}
