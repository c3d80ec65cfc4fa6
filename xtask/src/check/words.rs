//! Words that are not used here, with those that are used instead: xtask/words.txt.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::files::{self, File, has_extension};

const LIST: &str = "xtask/words.txt";

/// A line of the list.
struct Entry {
    /// One word or several. With a capital letter it is compared as it is, else in any case.
    phrase: String,
    instead: String,
    /// Beginnings of paths, and parts of lines, where the phrase is right.
    except: Vec<String>,
}

/// A line for each place where a phrase of the list is used: path, line, phrase, replacement.
pub fn findings(root: &Path) -> Result<Vec<String>> {
    let list = fs::read_to_string(root.join(LIST)).with_context(|| format!("reading {LIST}"))?;
    let entries = parse(&list)?;
    let files = files::read(root, is_checked)?;
    let found = files.iter().flat_map(|file| find(file, &entries));
    Ok(found.collect())
}

/// Code, documents, and the YAML that users read. Released definitions stay as they were.
fn is_checked(path: &str) -> bool {
    let below = |folder| path.starts_with(folder);
    has_extension(path, "rs")
        || path == "README.md"
        || (below("docs/") && has_extension(path, "md"))
        || below("charts/")
        || below("manifests/")
        || (below("crds/") && has_extension(path, "yaml") && !below("crds/released/"))
}

/// `phrase | instead | exception, exception`; lines with `#` are comments.
fn parse(list: &str) -> Result<Vec<Entry>> {
    let lines = list.lines().map(str::trim).zip(1..);
    let entries = lines.filter(|(line, _)| !line.is_empty() && !line.starts_with('#'));
    let entries = entries.map(|(line, number)| {
        let mut parts = line.split('|').map(str::trim);
        let (Some(phrase), Some(instead)) = (parts.next(), parts.next()) else {
            anyhow::bail!("{LIST}:{number}: write `phrase | what to write instead`");
        };
        let except = parts.next().unwrap_or_default().split(',').map(str::trim);
        Ok(Entry {
            phrase: phrase.to_owned(),
            instead: instead.to_owned(),
            except: except
                .filter(|part| !part.is_empty())
                .map(str::to_owned)
                .collect(),
        })
    });
    entries.collect()
}

fn find(file: &File, entries: &[Entry]) -> Vec<String> {
    let text = Joined::new(&file.text);
    let lower = text.text.to_ascii_lowercase();
    let lines: Vec<&str> = file.text.lines().collect();
    let mut found = Vec::new();
    for entry in entries {
        let has_capital = entry.phrase.contains(char::is_uppercase);
        let searched = if has_capital { &text.text } else { &lower };
        for (at, _) in searched.match_indices(&entry.phrase) {
            let line = text.line(at);
            let is_word = is_edge(searched[..at].chars().next_back())
                && is_edge(searched[at + entry.phrase.len()..].chars().next());
            let is_right =
                |part: &String| file.path.starts_with(part) || lines[line].contains(part.as_str());
            if is_word && !entry.except.iter().any(is_right) {
                let (path, number) = (&file.path, line + 1);
                let Entry {
                    phrase, instead, ..
                } = entry;
                found.push((
                    line,
                    format!("{path}:{number}: `{phrase}`: write {instead}"),
                ));
            }
        }
    }
    found.sort();
    found.into_iter().map(|(_, finding)| finding).collect()
}

/// Whether a word ends beside this character. Parts of `snake_case` names are words.
fn is_edge(beside: Option<char>) -> bool {
    beside.is_none_or(|c| !c.is_alphanumeric())
}

/// A text in one line, without the marks that begin lines of comments, so that a phrase is found
/// where it is wrapped.
struct Joined {
    text: String,
    /// Where each line begins.
    starts: Vec<usize>,
}

impl Joined {
    fn new(text: &str) -> Self {
        let mut joined = Self {
            text: String::with_capacity(text.len()),
            starts: Vec::new(),
        };
        for line in text.lines() {
            joined.starts.push(joined.text.len());
            let line = line.trim_start();
            let line = ["///", "//!", "//", "#", ">"]
                .iter()
                .find_map(|mark| line.strip_prefix(mark))
                .unwrap_or(line);
            joined
                .text
                .push_str(line.trim().trim_end_matches('\\').trim_end());
            joined.text.push(' ');
        }
        joined
    }

    /// The line of a position, from 0.
    fn line(&self, at: usize) -> usize {
        self.starts.partition_point(|start| *start <= at) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str, list: &str) -> Vec<String> {
        let file = File {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        find(&file, &parse(list).unwrap())
    }

    #[test]
    fn a_phrase_is_found_as_words_in_any_case() {
        let list = "# a comment\n\nred fish | `salmon`";
        for (text, expected) in [
            ("let x = 1; // Red fish", true),
            ("fn red fish_bone()", true),
            ("/// a red\n/// fish", true),
            ("\"a red \\\n    fish\"", true),
            ("bored fish", false),
            ("red fishes", false),
        ] {
            assert_eq!(!found("a.rs", text, list).is_empty(), expected, "{text}");
        }
        assert_eq!(
            found("a.rs", "\n/// a red\n/// fish", list),
            ["a.rs:2: `red fish`: write `salmon`"]
        );
    }

    #[test]
    fn a_capital_is_compared_and_exceptions_are_heeded() {
        let list = "Fish | Salmon | docs/, big Fish";
        assert_eq!(found("a.rs", "struct Fish;", list).len(), 1);
        for (path, text) in [
            ("a.rs", "let fish = 1;"),
            ("docs/a.md", "Fish"),
            ("a.rs", "a big Fish"),
        ] {
            assert!(found(path, text, list).is_empty(), "{path} {text}");
        }
    }

    #[test]
    fn a_line_without_a_replacement_is_an_error() {
        assert!(parse("fish").is_err());
    }
}
