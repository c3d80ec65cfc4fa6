//! Output of all commands: tables, JSON, YAML and CSV, in colour only for a terminal.

use std::{
    env,
    io::{self, IsTerminal as _, Write as _},
    sync::atomic::{AtomicBool, Ordering},
};

use clap::ValueEnum;
use serde::Serialize;

use crate::failure::Failure;

/// Form of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Table,
    /// One document, for programs
    Json,
    /// One document
    Yaml,
    /// The table's rows with a header (RFC 4180)
    Csv,
}

/// The option that chooses the form of the output.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Options {
    /// Form of the output
    #[arg(short, long, value_enum, value_name = "FORM", default_value_t)]
    pub output: Format,
}

/// Colour of a cell, on a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// Fine.
    Green,
    /// Somebody has to look.
    Yellow,
    /// Wrong.
    Red,
}

/// A cell of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    text: String,
    colour: Option<Colour>,
}

impl<T: ToString> From<T> for Cell {
    fn from(text: T) -> Self {
        Self {
            text: text.to_string(),
            colour: None,
        }
    }
}

impl Cell {
    /// A cell in a colour.
    pub fn coloured(text: impl Into<String>, colour: Colour) -> Self {
        Self {
            text: text.into(),
            colour: Some(colour),
        }
    }
}

/// Rows under a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table without rows.
    pub fn new<T: ToString>(header: impl IntoIterator<Item = T>) -> Self {
        Self {
            header: header.into_iter().map(|name| name.to_string()).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Whether there is no row.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Columns padded to their widest cell, two spaces between them, as kubectl prints them.
    #[must_use]
    pub fn text(&self, paint: Paint) -> String {
        let header = self.header.iter().map(|name| name.to_uppercase().into());
        let rows = [header.collect()].into_iter().chain(self.rows.clone());
        let shown = |cell: Cell| Cell {
            text: visible(&cell.text),
            ..cell
        };
        let rows = rows.map(|row: Vec<Cell>| row.into_iter().map(shown).collect());
        let rows: Vec<Vec<Cell>> = rows.collect();
        let widths: Vec<usize> = (0..self.header.len())
            .map(|column| {
                let cells = rows.iter().filter_map(|row| row.get(column));
                cells.map(|cell| width(&cell.text)).max().unwrap_or(0)
            })
            .collect();
        let mut text = String::new();
        for row in &rows {
            let mut line = String::new();
            for (cell, wide) in row.iter().zip(&widths) {
                let padding = " ".repeat(wide.saturating_sub(width(&cell.text)) + 2);
                line.push_str(&paint.cell(cell));
                line.push_str(&padding);
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// Comma-separated values with a header, lines that end in a line feed.
    #[must_use]
    pub fn csv(&self) -> String {
        let header = self.header.iter().map(String::as_str).collect();
        let rows = self.rows.iter();
        let rows = rows.map(|row| row.iter().map(|cell| cell.text.as_str()).collect());
        let lines = [header].into_iter().chain(rows).map(|row: Vec<&str>| {
            let cells: Vec<String> = row.into_iter().map(quoted).collect();
            cells.join(",") + "\n"
        });
        lines.collect()
    }
}

/// Number of characters, the width of a cell in nearly every script.
fn width(text: &str) -> usize {
    text.chars().count()
}

/// A value of CSV.
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

/// A text without characters that control a terminal.
#[must_use]
pub fn visible(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

/// A text of at most this many characters on one line; what is left out is marked.
#[must_use]
pub fn shortened(text: &str, most: usize) -> String {
    let line = visible(&text.replace(['\n', '\r', '\t'], " "));
    if width(&line) <= most {
        return line;
    }
    let kept: String = line.chars().take(most.saturating_sub(1)).collect();
    kept + "…"
}

/// Whether colours are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paint(bool);

impl Paint {
    /// No colours.
    #[cfg(test)]
    pub const PLAIN: Self = Self(false);

    /// Colours if standard output is a terminal and `NO_COLOR` is not set.
    #[must_use]
    pub fn of_standard_output() -> Self {
        let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self(!refused && io::stdout().is_terminal())
    }

    /// A text in a colour.
    #[must_use]
    pub fn text(self, text: &str, colour: Colour) -> String {
        if !self.0 {
            return text.to_owned();
        }
        let code = match colour {
            Colour::Green => 32,
            Colour::Yellow => 33,
            Colour::Red => 31,
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }

    fn cell(self, cell: &Cell) -> String {
        match cell.colour {
            Some(colour) => self.text(&cell.text, colour),
            None => cell.text.clone(),
        }
    }
}

/// Whether nobody reads standard output any more.
static READER_IS_GONE: AtomicBool = AtomicBool::new(false);

/// Prints a text that ends its own lines. A reader such as `head` that has seen enough is no error:
/// the command goes on to its answer.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            READER_IS_GONE.store(true, Ordering::Relaxed);
            Ok(())
        }
        written => written.map_err(Failure::Output),
    }
}

/// Whether printing more has no use: whoever prints without end has to stop then.
#[must_use]
pub fn reader_is_gone() -> bool {
    READER_IS_GONE.load(Ordering::Relaxed)
}

/// Prints data in the form that was asked for: `text` for people, `table` as CSV.
pub fn show(
    format: Format,
    data: &impl Serialize,
    table: &Table,
    text: impl FnOnce(Paint) -> String,
) -> Result<(), Failure> {
    let shown = match format {
        Format::Table => text(Paint::of_standard_output()),
        Format::Csv => table.csv(),
        Format::Json => {
            let json = serde_json::to_string_pretty(data);
            json.map_err(|error| Failure::Output(error.into()))? + "\n"
        }
        Format::Yaml => {
            let yaml = serde_yaml::to_string(data);
            yaml.map_err(|error| Failure::Output(io::Error::other(error)))?
        }
    };
    print(&for_terminal(format, shown))
}

/// A document as it may be shown on a terminal: records hold what anybody has posted. What goes
/// elsewhere stays as it is.
pub fn for_terminal(format: Format, document: String) -> String {
    if format == Format::Table || !io::stdout().is_terminal() {
        return document;
    }
    let controls = |character: char| character.is_control() && character != '\n';
    document.replace(controls, "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(["name", "value"]);
        table.row(["a".into(), Cell::coloured("é, \"x\"", Colour::Red)]);
        table.row(["longer".into(), Cell::default()]);
        table
    }

    #[test]
    fn columns_are_padded_whatever_their_colours() {
        let plain = "NAME    VALUE\na       é, \"x\"\nlonger\n";
        assert_eq!(table().text(Paint::PLAIN), plain);
        let painted = plain.replace("é, \"x\"", "\u{1b}[31mé, \"x\"\u{1b}[0m");
        assert_eq!(table().text(Paint(true)), painted);
    }

    #[test]
    fn values_of_csv_are_quoted_where_they_must_be() {
        assert_eq!(table().csv(), "name,value\na,\"é, \"\"x\"\"\"\nlonger,\n");
    }

    #[test]
    fn texts_of_others_control_no_terminal() {
        let mut table = Table::new(["a\u{1b}[2J"]);
        table.row(["x\u{7}\u{9b}y".into()]);
        assert_eq!(
            table.text(Paint::PLAIN),
            "A\u{fffd}[2J\nx\u{fffd}\u{fffd}y\n"
        );
        assert_eq!(shortened("a\u{1b}b", 9), "a\u{fffd}b");
    }

    #[test]
    fn long_texts_are_shortened_to_one_line() {
        assert_eq!(shortened("a\nb", 3), "a b");
        assert_eq!(shortened("äbcd", 3), "äb…");
    }
}
