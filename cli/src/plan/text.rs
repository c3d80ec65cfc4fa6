//! A plan as text and as rows.

use std::fmt::Write as _;

use serde_json::Value;

use super::{
    change::{Action, Change, Refused},
    diff::Field,
};
use crate::output::{Cell, Colour, Paint, Table, shortened};

/// Longest value, characters.
const LONGEST: usize = 60;

/// A change for people.
pub(super) fn text(change: &Change, paint: Paint) -> String {
    let verdict = match (change.refused.is_empty(), change.new, change.is_any()) {
        (false, ..) => paint.text("can't be applied", Colour::Red),
        (true, true, _) => paint.text("is new", Colour::Green),
        (true, false, true) => paint.text("changes", Colour::Yellow),
        (true, false, false) => "doesn't change".to_owned(),
    };
    let mut text = format!("{} {verdict}\n", change.pipeline);
    section(&mut text, "spec", change.spec.iter().map(field));
    section(
        &mut text,
        "annotations",
        change.annotations.iter().map(field),
    );
    section(&mut text, "refused", change.refused.iter().map(refused));
    let objects = change.objects.iter().flat_map(|object| {
        let (word, colour) = action(object.action);
        let word = paint.text(word, colour);
        let line = format!("{word} {} {}", object.kind, object.name);
        let fields = object.fields.iter().map(|it| format!("    {}", field(it)));
        [line].into_iter().chain(fields).collect::<Vec<_>>()
    });
    section(&mut text, "objects", objects);
    let topics = change
        .topics
        .iter()
        .map(|it| format!("{} {}", it.topic, it.what));
    section(&mut text, "topics", topics);
    let pods = change.restarts.iter().map(|restart| {
        let because = match restart.because.as_slice() {
            [] => String::new(),
            because => format!(": {}", because.join(", ")),
        };
        format!("{} {}{because}", restart.what, restart.component)
    });
    section(&mut text, "pods", pods);
    section(&mut text, "batch runs", change.batch.iter().cloned());
    section(&mut text, "notes", change.notes.iter().cloned());
    text
}

fn section(text: &mut String, title: &str, lines: impl Iterator<Item = String>) {
    let mut lines = lines.peekable();
    if lines.peek().is_some() {
        let _ = writeln!(text, "{title}:");
    }
    for line in lines {
        let _ = writeln!(text, "  {line}");
    }
}

fn refused(refused: &Refused) -> String {
    let Refused { field, message } = refused;
    let both = field.before.is_some() && field.after.is_some();
    if both && field.before != field.after {
        return format!("{}: {message}", self::field(field));
    }
    match field.path.as_str() {
        "" => message.clone(),
        path => format!("{path}: {message}"),
    }
}

fn field(field: &Field) -> String {
    format!(
        "{}: {} → {}",
        field.path,
        value(field.before.as_ref()),
        value(field.after.as_ref())
    )
}

fn value(value: Option<&Value>) -> String {
    value.map_or_else(
        || "not set".to_owned(),
        |value| shortened(&value.to_string(), LONGEST),
    )
}

const fn action(action: Action) -> (&'static str, Colour) {
    match action {
        Action::Create => ("create", Colour::Green),
        Action::Change => ("change", Colour::Yellow),
        Action::Delete => ("delete", Colour::Red),
    }
}

/// All changes, for CSV.
pub(super) fn rows(changes: &[Change]) -> Table {
    let mut table = Table::new([
        "pipeline", "about", "what", "name", "field", "before", "after",
    ]);
    for change in changes {
        let mut row = |about: &str, what: &str, name: &str, field: Option<&Field>| {
            let text = |value: Option<&Value>| value.map(Value::to_string).unwrap_or_default();
            let before = text(field.and_then(|field| field.before.as_ref()));
            let after = text(field.and_then(|field| field.after.as_ref()));
            let path = field.map(|field| field.path.as_str()).unwrap_or_default();
            let cells = [&change.pipeline, about, what, name, path, &before, &after];
            table.row(cells.map(Cell::from));
        };
        for field in &change.spec {
            row("spec", "change", "", Some(field));
        }
        for field in &change.annotations {
            row("annotation", "change", "", Some(field));
        }
        for refused in &change.refused {
            row("refused", &refused.message, "", Some(&refused.field));
        }
        for object in &change.objects {
            let (word, name) = (
                action(object.action).0,
                format!("{} {}", object.kind, object.name),
            );
            if object.fields.is_empty() {
                row("object", word, &name, None);
            }
            for field in &object.fields {
                row("object", word, &name, Some(field));
            }
        }
        for topic in &change.topics {
            row("topic", &topic.what, &topic.topic, None);
        }
        for restart in &change.restarts {
            row("pods", restart.what, &restart.component, None);
        }
        for sentence in &change.batch {
            row("batch", sentence, "", None);
        }
        for note in &change.notes {
            row("note", note, "", None);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plan::change::{ObjectChange, Restart};

    #[test]
    fn sections_without_content_are_left_out() {
        let replicas = Field {
            path: "spec.replicas".to_owned(),
            before: Some(json!(2)),
            after: None,
        };
        let change = Change {
            pipeline: "data/pinterest".to_owned(),
            objects: vec![ObjectChange {
                action: Action::Change,
                kind: "Deployment".to_owned(),
                name: "pinterest-ingest".to_owned(),
                fields: vec![replicas],
            }],
            restarts: vec![Restart {
                component: "ingest".to_owned(),
                what: "scale",
                because: vec!["pods: 2 → 3".to_owned()],
            }],
            ..Change::default()
        };
        assert_eq!(
            text(&change, Paint::PLAIN),
            "\
data/pinterest changes
objects:
  change Deployment pinterest-ingest
      spec.replicas: 2 → not set
pods:
  scale ingest: pods: 2 → 3
"
        );
        let none = Change {
            pipeline: "a/b".to_owned(),
            ..Change::default()
        };
        assert_eq!(text(&none, Paint::PLAIN), "a/b doesn't change\n");
        assert_eq!(rows(&[change]).csv().lines().count(), 3);
    }
}
