//! Results in the forms of output.

use std::io;

use serde::Serialize;
use serde_json::Value;

use crate::{
    failure::Failure,
    output::{Format, Table, for_terminal, print},
};

/// Results as the rows of a table, by the names of their fields.
pub fn table<T: Serialize>(columns: &[&str], results: &[T]) -> Table {
    let mut table = Table::new(columns);
    for result in results {
        let fields = serde_json::to_value(result).unwrap_or_default();
        let cells = columns.iter().map(|column| match &fields[*column] {
            Value::Null => String::new().into(),
            Value::String(text) => text.into(),
            value => value.into(),
        });
        table.row(cells);
    }
    table
}

/// Prints results as they come: a line each for people and in CSV, one JSON value a line, or YAML
/// documents.
#[derive(Debug)]
pub struct Stream {
    format: Format,
    columns: &'static [&'static str],
    begun: bool,
}

impl Stream {
    /// A stream of results with these columns.
    #[must_use]
    pub const fn new(format: Format, columns: &'static [&'static str]) -> Self {
        Self {
            format,
            columns,
            begun: false,
        }
    }

    /// Prints a result; `line` is for people.
    pub fn print<T: Serialize>(
        &mut self,
        result: &T,
        line: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        let text = self.text(result, line);
        self.begun = true;
        print(&for_terminal(self.format, text.map_err(Failure::Output)?))
    }

    fn text<T: Serialize>(
        &self,
        result: &T,
        line: impl FnOnce(&T) -> String,
    ) -> io::Result<String> {
        Ok(match self.format {
            Format::Table => line(result) + "\n",
            Format::Json => serde_json::to_string(result)? + "\n",
            Format::Yaml => {
                let yaml = serde_yaml::to_string(result).map_err(io::Error::other)?;
                format!("---\n{yaml}")
            }
            Format::Csv => {
                let csv = table(self.columns, std::slice::from_ref(result)).csv();
                match csv.split_once('\n') {
                    Some((_, row)) if self.begun => row.to_owned(),
                    _ => csv,
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn results_are_streamed_in_every_form() {
        let result = json!({"topic": "a", "offset": 7, "other": [1]});
        let text = |format, begun| {
            let mut stream = Stream::new(format, &["offset", "topic", "key"]);
            stream.begun = begun;
            stream.text(&result, |it| it["topic"].to_string()).unwrap()
        };
        assert_eq!(text(Format::Table, true), "\"a\"\n");
        assert_eq!(text(Format::Csv, false), "offset,topic,key\n7,a,\n");
        assert_eq!(text(Format::Csv, true), "7,a,\n");
        assert_eq!(text(Format::Json, true), format!("{result}\n"));
        assert!(text(Format::Yaml, true).starts_with("---\n"));
    }
}
