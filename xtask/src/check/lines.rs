//! Lines of at most 100 columns, and Rust files of at most 500 lines.

use std::path::Path;

use anyhow::Result;

use super::files::{self, File, has_extension};

/// As in rustfmt.toml, which leaves long comments and strings alone.
const COLUMNS: usize = 100;
const LINES: usize = 500;

/// Longer files, each with its reason.
const LONG: [(&str, &str); 1] = [(
    "operator/tests/proofs/walk/change.rs",
    "one function per field of the resource; together they are the list of what is changed",
)];

/// A line for each place that is too wide or too long.
pub fn findings(root: &Path) -> Result<Vec<String>> {
    let files = files::read(root, |path| {
        has_extension(path, "rs") || has_extension(path, "md")
    })?;
    let long = files.iter().filter_map(too_long);
    Ok(files.iter().flat_map(too_wide).chain(long).collect())
}

/// Tables of Markdown can't be wrapped, and neither can a single long word, such as a link.
fn too_wide(file: &File) -> Vec<String> {
    let is_markdown = has_extension(&file.path, "md");
    let lines = file.text.lines().zip(1..);
    let wide = lines.filter_map(|(line, number)| {
        let columns = line.chars().count();
        let is_fixed =
            is_markdown && (line.trim_start().starts_with('|') || !line.trim_start().contains(' '));
        (columns > COLUMNS && !is_fixed).then(|| {
            format!(
                "{}:{number}: {columns} columns, at most {COLUMNS}",
                file.path
            )
        })
    });
    wide.collect()
}

fn too_long(file: &File) -> Option<String> {
    let lines = file.text.lines().count();
    let is_known = LONG.iter().any(|(path, _)| *path == file.path);
    (has_extension(&file.path, "rs") && lines > LINES && !is_known)
        .then(|| format!("{}:{lines}: {lines} lines, at most {LINES}", file.path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }

    #[test]
    fn columns_are_characters() {
        let line = "é".repeat(COLUMNS);
        assert!(too_wide(&file("a.rs", &line)).is_empty());
        assert_eq!(
            too_wide(&file("a.rs", &format!("\n{line}x"))),
            ["a.rs:2: 101 columns, at most 100"]
        );
    }

    #[test]
    fn only_tables_and_links_of_markdown_may_be_wide() {
        let words = "word ".repeat(30);
        for (path, line, expected) in [
            ("a.md", format!("| {words}"), 0),
            ("a.md", format!("  <https://{}>", "x".repeat(COLUMNS)), 0),
            ("a.md", words.clone(), 1),
            ("a.rs", format!("| {words}"), 1),
        ] {
            assert_eq!(
                too_wide(&file(path, &line)).len(),
                expected,
                "{path} {line}"
            );
        }
    }

    #[test]
    fn long_rust_files_are_found() {
        let text = "\n".repeat(LINES + 1);
        assert!(too_long(&file("a.rs", &text)).is_some());
        assert!(too_long(&file("a.rs", &text[1..])).is_none());
        assert!(too_long(&file("a.md", &text)).is_none());
    }
}
