//! The paths that a Rust file uses within its own crate, read from its text.

/// A path from the root of the crate: `crate::a::{b, c}` is two of them.
pub type Path = Vec<String>;

/// What a file refers to, and the names of its modules that only tests have.
#[derive(Default)]
pub struct Uses {
    pub paths: Vec<Path>,
    pub test_modules: Vec<String>,
}

/// Reads the file of a module; `module` is the module's own path.
pub fn read(text: &str, module: &[String]) -> Uses {
    let (code, test_modules) = without_tests(&tokens(text));
    let mut uses = Uses {
        test_modules,
        ..Uses::default()
    };
    // The modules around the position that the file itself has, each with the braces around it.
    let mut inner: Vec<(String, usize)> = Vec::new();
    let (mut at, mut depth) = (0, 0);
    while at < code.len() {
        let is_start = at == 0 || code[at - 1] != "::";
        let next = code.get(at + 1).map(String::as_str);
        if code[at] == "mod" && code.get(at + 2).is_some_and(|token| token == "{") {
            inner.push((code[at + 1].clone(), depth));
        }
        depth += usize::from(code[at] == "{");
        if code[at] == "}" {
            depth = depth.saturating_sub(1);
            inner.retain(|(_, around)| *around < depth);
        }
        let here = || {
            let inner = inner.iter().map(|(name, _)| name.clone());
            module.iter().cloned().chain(inner).collect::<Path>()
        };
        let root = match code[at].as_str() {
            "crate" => Some(Path::new()),
            "super" | "self" => Some(here()),
            _ => None,
        };
        match root {
            Some(mut root) if is_start && next == Some("::") => {
                if code[at] == "super" {
                    root.pop();
                }
                at = path(&code, at + 2, root, &mut uses.paths);
            }
            _ => at += 1,
        }
    }
    uses
}

/// Reads the rest of a path, or a group of paths, behind `so_far`; returns where it ends.
fn path(code: &[String], mut at: usize, mut so_far: Path, found: &mut Vec<Path>) -> usize {
    match code.get(at).map(String::as_str) {
        Some("{") => {
            at += 1;
            while let Some(token) = code.get(at).filter(|token| *token != "}") {
                at = match token.as_str() {
                    "," => at + 1,
                    _ => path(code, at, so_far.clone(), found),
                };
            }
            at + 1
        }
        Some("super") => {
            so_far.pop();
            rest(code, at + 1, so_far, found)
        }
        Some(name) if name.starts_with(|c: char| c.is_alphanumeric() || c == '_') => {
            if name != "self" {
                so_far.push(name.to_owned());
            }
            rest(code, at + 1, so_far, found)
        }
        _ => {
            found.push(so_far);
            at + 1
        }
    }
}

fn rest(code: &[String], mut at: usize, so_far: Path, found: &mut Vec<Path>) -> usize {
    if code.get(at).is_some_and(|token| token == "::") {
        return path(code, at + 1, so_far, found);
    }
    found.push(so_far);
    if code.get(at).is_some_and(|token| token == "as") {
        at += 2;
    }
    at
}

/// Leaves out items behind `#[cfg(test)]`; returns the names of modules among them, too.
fn without_tests(tokens: &[String]) -> (Vec<String>, Vec<String>) {
    let attribute = ["#", "[", "cfg", "(", "test", ")", "]"];
    let (mut code, mut modules) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < tokens.len() {
        let is_test = tokens[at..].iter().take(attribute.len()).eq(attribute);
        if !is_test {
            code.push(tokens[at].clone());
            at += 1;
            continue;
        }
        at += attribute.len();
        let end = tokens[at..]
            .iter()
            .position(|token| token == ";" || token == "{")
            .map_or(tokens.len(), |length| at + length);
        if let Some(module) = tokens[at..end].iter().position(|token| token == "mod") {
            modules.extend(tokens.get(at + module + 1).cloned());
        }
        at = end;
        let mut depth = 0;
        while at < tokens.len() {
            depth += i32::from(tokens[at] == "{") - i32::from(tokens[at] == "}");
            at += 1;
            if depth == 0 {
                break;
            }
        }
    }
    (code, modules)
}

/// Identifiers, `::`, and single other characters; no comments, strings and characters.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = literal(rest) {
            length
        } else if first.is_alphanumeric() || first == '_' {
            let length = rest
                .find(|c: char| !c.is_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            tokens.push(rest[..length].to_owned());
            length
        } else if rest.starts_with("::") {
            tokens.push("::".to_owned());
            2
        } else {
            if !first.is_whitespace() {
                tokens.push(first.to_string());
            }
            first.len_utf8()
        };
        rest = &rest[length..];
    }
    tokens
}

/// The length of a string or character at the start of a text; `'a` may be a lifetime.
fn literal(text: &str) -> Option<usize> {
    let raw = ["br", "cr", "r", "b", "c", ""]
        .into_iter()
        .find_map(|prefix| text.strip_prefix(prefix).map(|rest| (prefix, rest)))
        .filter(|(_, rest)| rest.starts_with(['"', '#']))?;
    let (prefix, rest) = raw;
    if prefix.ends_with('r') {
        let hashes = rest.len() - rest.trim_start_matches('#').len();
        let body = rest[hashes..].strip_prefix('"')?;
        let end = format!("\"{}", "#".repeat(hashes));
        let length = body.find(&end)? + end.len();
        return Some(prefix.len() + hashes + 1 + length);
    }
    quoted(rest, '"').map(|length| prefix.len() + length)
}

fn quoted(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    let mut characters = text.char_indices();
    characters.next().filter(|(_, first)| *first == quote)?;
    for (at, character) in characters {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if character == quote => return Some(at + quote.len_utf8()),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        let module = ["a".to_owned(), "b".to_owned()];
        let paths = read(text, &module).paths;
        paths.iter().map(|path| path.join("::")).collect()
    }

    #[test]
    fn paths_are_read_from_imports_and_expressions() {
        for (text, expected) in [
            ("use crate::c::D;", vec!["c::D"]),
            (
                "use crate::{c::{D, e as f}, g::*};",
                vec!["c::D", "c::e", "g"],
            ),
            ("use crate::c::{self, D};", vec!["c", "c::D"]),
            ("use super::c; use self::d::E;", vec!["a::c", "a::b::d::E"]),
            ("use super::super::c;", vec!["c"]),
            (
                "mod d { use super::E; } use super::F;",
                vec!["a::b::E", "a::F"],
            ),
            (
                "fn f(x: crate::c::D) -> u8 { crate::e::f(x) }",
                vec!["c::D", "e::f"],
            ),
            ("pub(crate) fn f() { std::mem::take(x) }", vec![]),
        ] {
            assert_eq!(found(text), expected, "{text}");
        }
    }

    #[test]
    fn comments_strings_and_tests_are_no_code() {
        for text in [
            "// crate::c\n/* crate::c */ //! [`crate::c`]",
            r##"let x = ("crate::c \" crate::d", r#"" crate::e"#, b"crate::f");"##,
            "#[cfg(test)]\nmod tests { use crate::c; fn f() { {} } }",
            "#[cfg(test)] use crate::c::{D, E};",
        ] {
            assert_eq!(found(text), Vec::<String>::new(), "{text}");
        }
        let after =
            "fn f<'a>(x: &'a str, c: char) -> bool { c == '\"' || c == '\\'' } use crate::c;";
        assert_eq!(found(after), ["c"]);
        assert_eq!(found("#[cfg(test)]\nmod t;\nuse crate::c;"), ["c"]);
        assert_eq!(read("#[cfg(test)]\nmod t;", &[]).test_modules, ["t"]);
    }
}
