//! Parses YAML as `kubectl` does, and records the line of every key and value.
//!
//! Plain scalars are resolved as in Kubernetes, which differs from YAML 1.2: `yes` and `on` are
//! true, `0o17` and `017` are both fifteen. See `resolve.go` of goyaml.v2 in sigs.k8s.io/yaml.

use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle, Tag};
use serde_json::{Map, Number, Value};

/// Maximum number of values that the aliases of a file may expand to. Aliases of aliases grow
/// exponentially.
const MAX_ALIASED_VALUES: usize = 200_000;

/// A value with its position in the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Line in the file, from 1.
    pub line: usize,
    /// The value.
    pub kind: Kind,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// A string, a number, a boolean or null.
    Scalar(Value),
    /// A list.
    List(Vec<Node>),
    /// An object: its entries in file order, each key once.
    Map(Vec<Entry>),
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Line of the key, from 1.
    pub line: usize,
    /// The key.
    pub key: String,
    /// Its value.
    pub value: Node,
}

/// One document of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// The whole document.
    pub root: Node,
    /// Duplicate keys, each as its line and a message. Only the first value of a key is kept.
    pub faults: Vec<(usize, String)>,
}

impl Node {
    /// Whether the value is null.
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.kind == Kind::Scalar(Value::Null)
    }

    /// The value as JSON, without fields that are null: the API server drops them, since the CRD
    /// has no nullable field.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match &self.kind {
            Kind::Scalar(value) => value.clone(),
            Kind::List(items) => Value::Array(items.iter().map(Self::to_json).collect()),
            Kind::Map(entries) => {
                let present = entries.iter().filter(|entry| !entry.value.is_null());
                let fields = present.map(|entry| (entry.key.clone(), entry.value.to_json()));
                Value::Object(fields.collect::<Map<_, _>>())
            }
        }
    }

    /// The entry of a key.
    #[must_use]
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.kind {
            Kind::Map(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    /// The string at a key.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        match &self.entry(key)?.value.kind {
            Kind::Scalar(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    /// Line of a field such as `spec.stream.sinks[0].name`, or of its nearest ancestor if it is
    /// absent.
    #[must_use]
    pub fn line_of(&self, field: &str) -> usize {
        self.find(field).0
    }

    /// Whether a field is present.
    #[must_use]
    pub fn has(&self, field: &str) -> bool {
        self.find(field).1
    }

    fn find(&self, field: &str) -> (usize, bool) {
        let (mut node, mut line, mut rest) = (self, self.line, field);
        while !rest.is_empty() {
            let step = match &node.kind {
                Kind::List(items) => rest
                    .strip_prefix('[')
                    .and_then(|rest| rest.split_once(']'))
                    .and_then(|(index, rest)| {
                        let item = items.get(index.parse::<usize>().ok()?)?;
                        Some((item, item.line, rest))
                    }),
                // Keys may contain dots, so the longest matching key wins.
                Kind::Map(entries) => entries
                    .iter()
                    .filter_map(|entry| Some((entry, after(&entry.key, rest)?)))
                    .min_by_key(|(_, rest)| rest.len())
                    .map(|(entry, rest)| (&entry.value, entry.line, rest)),
                Kind::Scalar(_) => None,
            };
            let Some((found, at, left)) = step else {
                return (line, false);
            };
            (node, line, rest) = (found, at, left.strip_prefix('.').unwrap_or(left));
        }
        (line, true)
    }
}

/// The rest of `path` after `key`, or `None` if it doesn't start with that key. The key may be
/// written as `key` or, in maps with user-defined keys, as `[key]`.
fn after<'a>(key: &str, path: &'a str) -> Option<&'a str> {
    let bracketed = path
        .strip_prefix('[')
        .and_then(|path| path.strip_prefix(key))
        .and_then(|path| path.strip_prefix(']'));
    let plain = path
        .strip_prefix(key)
        .filter(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
    bracketed.or(plain)
}

/// Parses all documents of a file. On invalid YAML the error is the line and a message.
pub fn read(text: &str) -> Result<Vec<Document>, (usize, String)> {
    let mut reader = Reader::default();
    for next in Parser::new_from_str(text) {
        let (event, span) =
            next.map_err(|error| (error.marker().line(), format!("not YAML: {}", error.info())))?;
        reader.take(event, span.start.line())?;
    }
    Ok(reader.documents)
}

/// A list or map that is still being read.
struct Open {
    node: Node,
    anchor: usize,
    /// A map's latest key and its line, until the value of the key has been read.
    key: Option<(usize, String)>,
}

#[derive(Default)]
struct Reader {
    documents: Vec<Document>,
    faults: Vec<(usize, String)>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    values: usize,
}

impl Reader {
    fn take(&mut self, event: Event<'_>, line: usize) -> Result<(), (usize, String)> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let value = scalar(&text, style, tag.as_deref());
                self.put(
                    Node {
                        line,
                        kind: Kind::Scalar(value),
                    },
                    anchor,
                )?;
            }
            Event::SequenceStart(_, anchor, _) => self.begin(line, Kind::List(Vec::new()), anchor),
            Event::MappingStart(_, anchor, _) => self.begin(line, Kind::Map(Vec::new()), anchor),
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(open) = self.open.pop() {
                    let mut node = open.node;
                    if let Kind::Map(entries) = &mut node.kind {
                        merge(entries);
                    }
                    self.put(node, open.anchor)?;
                }
            }
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor);
                let node = node.ok_or_else(|| {
                    (
                        line,
                        "an alias can't refer to a value that contains it".to_owned(),
                    )
                })?;
                let values = count(node);
                self.values = self.values.saturating_add(values);
                if self.values > MAX_ALIASED_VALUES {
                    let message =
                        format!("aliases expand to more than {MAX_ALIASED_VALUES} values");
                    return Err((line, message));
                }
                let node = node.clone();
                self.put(node, 0)?;
            }
            Event::DocumentStart(..) => self.anchors.clear(),
            _ => {}
        }
        Ok(())
    }

    fn begin(&mut self, line: usize, kind: Kind, anchor: usize) {
        self.open.push(Open {
            node: Node { line, kind },
            anchor,
            key: None,
        });
    }

    /// Adds a complete value to the innermost open list or map, or ends the document if none is
    /// open.
    fn put(&mut self, node: Node, anchor: usize) -> Result<(), (usize, String)> {
        let line = node.line;
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            self.documents.push(Document {
                root: node,
                faults: std::mem::take(&mut self.faults),
            });
            return Ok(());
        };
        match &mut open.node.kind {
            Kind::List(items) => items.push(node),
            Kind::Map(entries) => match open.key.take() {
                None => open.key = Some((line, key(&node)?)),
                Some((line, key)) => match entries.iter().find(|entry| entry.key == key) {
                    Some(first) => self.faults.push((
                        line,
                        format!(
                            "key \"{key}\" already set on line {}: remove one of the two",
                            first.line
                        ),
                    )),
                    None => entries.push(Entry {
                        line,
                        key,
                        value: node,
                    }),
                },
            },
            Kind::Scalar(_) => {}
        }
        Ok(())
    }
}

/// The number of values in a node, itself included.
fn count(node: &Node) -> usize {
    match &node.kind {
        Kind::Scalar(_) => 1,
        Kind::List(items) => 1 + items.iter().map(count).sum::<usize>(),
        Kind::Map(entries) => {
            1 + entries
                .iter()
                .map(|entry| count(&entry.value))
                .sum::<usize>()
        }
    }
}

/// A node as the key of a map. Scalars other than strings become strings.
fn key(node: &Node) -> Result<String, (usize, String)> {
    match &node.kind {
        Kind::Scalar(Value::String(text)) => Ok(text.clone()),
        Kind::Scalar(value) => Ok(value.to_string()),
        _ => Err((
            node.line,
            "a key must be a string, not a list or an object (if this is a template, render it \
             first)"
                .to_owned(),
        )),
    }
}

/// Resolves the merge key `<<`: adds the entries of the maps it refers to, except for keys that the
/// map sets itself.
fn merge(entries: &mut Vec<Entry>) {
    let Some(at) = entries.iter().position(|entry| entry.key == "<<") else {
        return;
    };
    let merged = entries.remove(at).value;
    let maps = match merged.kind {
        Kind::List(items) => items,
        _ => vec![merged],
    };
    for map in maps {
        let Kind::Map(more) = map.kind else { continue };
        for entry in more {
            if !entries.iter().any(|own| own.key == entry.key) {
                entries.push(entry);
            }
        }
    }
}

/// Resolves a scalar. Only plain ones without the tag `!!str` can be anything but a string.
fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Value {
    let is_text = tag.is_some_and(|tag| tag.is_yaml_core_schema_tag("str"));
    if is_text || style != ScalarStyle::Plain {
        return Value::String(text.to_owned());
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Value::Bool(true);
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Value::Bool(false);
        }
        _ => {}
    }
    number(text).map_or_else(|| Value::String(text.to_owned()), Value::Number)
}

/// Parses a plain scalar as a number: an integer in base 2, 8, 10 or 16, or a float, either with
/// optional underscores. `None` if it is a string.
fn number(text: &str) -> Option<Number> {
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return None;
    }
    let plain = text.replace('_', "");
    let (sign, digits) = match plain.as_bytes().first()? {
        b'-' => (-1, &plain[1..]),
        b'+' => (1, &plain[1..]),
        _ => (1, plain.as_str()),
    };
    let based = [
        ("0x", 16),
        ("0X", 16),
        ("0o", 8),
        ("0O", 8),
        ("0b", 2),
        ("0B", 2),
    ]
    .into_iter()
    .find_map(|(prefix, base)| Some((digits.strip_prefix(prefix)?, base)));
    let (digits, base) = match based {
        Some(based) => based,
        None if digits.len() > 1
            && digits.starts_with('0')
            && digits.bytes().all(|b| b.is_ascii_digit()) =>
        {
            (&digits[1..], 8)
        }
        None => (digits, 10),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    if let Ok(number) = i128::from_str_radix(digits, base) {
        let number = number * sign;
        let fits = i64::try_from(number)
            .map(Number::from)
            .or_else(|_| u64::try_from(number).map(Number::from));
        return fits.ok().or_else(|| Number::from_f64(plain.parse().ok()?));
    }
    let is_float = plain.contains(|c: char| c.is_ascii_digit())
        && plain
            .bytes()
            .all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    if is_float {
        Number::from_f64(plain.parse().ok()?)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn one(text: &str) -> Document {
        read(text).unwrap().remove(0)
    }

    #[test]
    fn plain_scalars_are_resolved_as_kubectl_does() {
        for (text, expected) in [
            ("yes", json!(true)),
            ("Off", json!(false)),
            ("\"yes\"", json!("yes")),
            ("!!str 5", json!("5")),
            ("5", json!(5)),
            ("-5", json!(-5)),
            ("+5", json!(5)),
            ("1_000", json!(1000)),
            ("0x1F", json!(31)),
            ("017", json!(15)),
            ("0o17", json!(15)),
            ("089", json!(89.0)),
            ("1.5", json!(1.5)),
            ("1e3", json!(1000.0)),
            (".5", json!(0.5)),
            ("5m", json!("5m")),
            ("1.2.3", json!("1.2.3")),
            ("'-'", json!("-")),
            ("--5", json!("--5")),
            ("2026-01-01", json!("2026-01-01")),
            ("18446744073709551615", json!(u64::MAX)),
        ] {
            assert_eq!(
                one(&format!("a: {text}\n")).root.to_json()["a"],
                expected,
                "{text}"
            );
        }
        assert_eq!(
            one("a: ~\nb:\nc: [~, 1]\n").root.to_json(),
            json!({"c": [null, 1]})
        );
    }

    #[test]
    fn every_field_has_its_line() {
        let document =
            one("# a comment\na:\n  b.c: 1\n  list:\n    - x: 1\n      w: {z: 2}\n    - x: 2\n");
        for (field, line, is_present) in [
            ("", 2, true),
            ("a", 2, true),
            ("a.b.c", 3, true),
            ("a[b.c]", 3, true),
            ("a.b", 2, false),
            ("a.list", 4, true),
            ("a.list[0]", 5, true),
            ("a.list[0].w.z", 6, true),
            ("a.list[1].w.z", 7, false),
            ("a.list[7]", 4, false),
        ] {
            assert_eq!(
                (document.root.line_of(field), document.root.has(field)),
                (line, is_present),
                "{field}"
            );
        }
    }

    #[test]
    fn documents_anchors_and_merge_keys_are_read() {
        let documents = read("a: &a {x: 1, z: 2}\nb: {<<: *a, z: 3}\n---\n- 1\n---\n").unwrap();
        let values: Vec<_> = documents
            .iter()
            .map(|document| document.root.to_json())
            .collect();
        assert_eq!(
            values,
            [
                json!({"a": {"x": 1, "z": 2}, "b": {"z": 3, "x": 1}}),
                json!([1]),
                json!(null)
            ]
        );
    }

    #[test]
    fn every_fault_has_its_line() {
        let twice = one("a: 1\nb: 2\na: 3\n");
        assert_eq!(twice.faults[0].0, 3);
        assert!(
            twice.faults[0].1.contains("\"a\"") && twice.faults[0].1.contains("line 1"),
            "{twice:?}"
        );
        assert_eq!(read("a: 1\nb: [}\n").unwrap_err().0, 2);
        let bomb = (1..40).fold("a0: &a0 [x, x]\n".to_owned(), |text, n| {
            format!("{text}a{n}: &a{n} [*a{}, *a{}]\n", n - 1, n - 1)
        });
        assert!(read(&bomb).unwrap_err().1.contains("aliases"));
    }
}
