//! Lists and single objects: JSON for programs, aligned text for people at a terminal.
//!
//! Invariant: nothing in a text answer can act on the terminal. Names and labels come from
//! anybody; control characters (ESC, the C1 set) and those that reorder or hide text are shown as
//! escapes, never sent.
//!
//! What it does not do: fit a width. Lines are as long as their values; `less -S` cuts them.

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use lessor_protocol::{Page, ProblemCode};
use serde::Serialize;
use unicode_width::UnicodeWidthStr;

use super::body::Json;
use super::{Format, object};
use crate::problem::Problem;

/// What a line of a table shows of an item.
pub trait TableRow {
    /// The names of the columns; the header shows them in capitals.
    const COLUMNS: &'static [&'static str];

    /// The cells, one for each column. An empty one is shown as `-`.
    fn cells(&self) -> Vec<String>;
}

/// A page of a list, as JSON or as a table.
#[derive(Clone, Debug)]
pub struct Listing<T> {
    /// The page.
    pub page: Page<T>,
    /// Its form.
    pub format: Format,
}

impl<T> Listing<T> {
    /// The page in this form; [`Format`] is an extractor.
    pub fn new(format: Format, page: Page<T>) -> Self {
        Self { page, format }
    }
}

impl<T: Serialize + TableRow> IntoResponse for Listing<T> {
    fn into_response(self) -> Response {
        match self.format {
            Format::Json => varying(Json(self.page).into_response()),
            Format::Text => text(table(&self.page)),
        }
    }
}

/// One object, as JSON or as a line for each of its fields.
#[derive(Clone, Debug)]
pub struct Item<T> {
    /// The object.
    pub value: T,
    /// Its form.
    pub format: Format,
}

impl<T> Item<T> {
    /// The object in this form; [`Format`] is an extractor.
    pub fn new(format: Format, value: T) -> Self {
        Self { value, format }
    }
}

impl<T: Serialize> IntoResponse for Item<T> {
    fn into_response(self) -> Response {
        if self.format == Format::Json {
            return varying(Json(self.value).into_response());
        }
        match object::fields(&self.value) {
            Ok(fields) => {
                let rows = fields
                    .into_iter()
                    .map(|(key, value)| vec![key.to_uppercase(), value])
                    .collect();
                text(aligned(rows, &[false, false]))
            }
            Err(error) => {
                let detail = format!("an answer cannot be shown as text: {error}");
                Problem::new(ProblemCode::Internal, detail).into_response()
            }
        }
    }
}

/// One object with a list in it, as JSON, or as a line for each of its other fields and a table of
/// that list below them.
#[derive(Clone, Debug)]
pub struct ItemAndRows<T, R> {
    value: T,
    field: &'static str,
    rows: Vec<R>,
    format: Format,
}

impl<T, R> ItemAndRows<T, R> {
    /// The object in this form; `rows` is what it has in `field`.
    pub fn new(format: Format, value: T, field: &'static str, rows: Vec<R>) -> Self {
        Self {
            value,
            field,
            rows,
            format,
        }
    }
}

impl<T: Serialize, R: Serialize + TableRow> IntoResponse for ItemAndRows<T, R> {
    fn into_response(self) -> Response {
        let fields = match self.format {
            Format::Text => object::fields(&self.value).ok(),
            Format::Json => None,
        };
        let Some(fields) = fields else {
            return Item::new(self.format, self.value).into_response();
        };
        let lines = fields
            .into_iter()
            .filter(|(key, _)| key != self.field)
            .map(|(key, value)| vec![key.to_uppercase(), value])
            .collect();
        let mut body = aligned(lines, &[false, false]);
        if !self.rows.is_empty() {
            body.push('\n');
            body.push_str(&table(&Page {
                items: self.rows,
                next_cursor: None,
            }));
        }
        text(body)
    }
}

/// A cache must not give one client's form to another.
fn varying(mut response: Response) -> Response {
    response
        .headers_mut()
        .append(header::VARY, HeaderValue::from_static("Accept"));
    response
}

fn text(body: String) -> Response {
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    varying(([(header::CONTENT_TYPE, plain)], body).into_response())
}

/// A page as a table.
pub fn table<T: TableRow>(page: &Page<T>) -> String {
    let mut rows = vec![
        T::COLUMNS
            .iter()
            .map(|name| name.to_uppercase())
            .collect::<Vec<_>>(),
    ];
    rows.extend(page.items.iter().map(TableRow::cells));
    let right: Vec<bool> = (0..T::COLUMNS.len())
        .map(|column| is_numeric(&rows[1..], column))
        .collect();
    let mut table = aligned(rows, &right);
    if let Some(cursor) = &page.next_cursor {
        table.push_str("more: ?cursor=");
        table.push_str(&visible(cursor));
        table.push('\n');
    }
    table
}

/// Whether a column holds numbers, at least one, and gaps.
fn is_numeric(rows: &[Vec<String>], column: usize) -> bool {
    let mut numbers = false;
    for cell in rows.iter().filter_map(|row| row.get(column)) {
        let is_number = cell.starts_with(|first: char| first.is_ascii_digit() || first == '-')
            && cell.parse::<f64>().is_ok();
        if !is_number && !matches!(cell.as_str(), "" | "-") {
            return false;
        }
        numbers |= is_number;
    }
    numbers
}

/// Rows as lines with two spaces between the columns, numbers to the right, nothing at the end.
fn aligned(rows: Vec<Vec<String>>, right: &[bool]) -> String {
    let rows: Vec<Vec<String>> = rows
        .into_iter()
        .map(|row| {
            row.iter()
                .map(|cell| {
                    if cell.is_empty() {
                        "-".to_owned()
                    } else {
                        visible(cell)
                    }
                })
                .collect()
        })
        .collect();
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.width())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..right.len()).map(width).collect();
    let mut lines = String::new();
    for row in &rows {
        let mut line = String::new();
        for ((cell, width), right) in row.iter().zip(&widths).zip(right) {
            if !line.is_empty() {
                line.push_str("  ");
            }
            let gap = " ".repeat(width.saturating_sub(cell.width()));
            let (before, after) = if *right {
                (gap.as_str(), "")
            } else {
                ("", gap.as_str())
            };
            line.extend([before, cell.as_str(), after]);
        }
        lines.push_str(line.trim_end());
        lines.push('\n');
    }
    lines
}

/// The text with everything escaped that a terminal would act on, or that hides or reorders text.
fn visible(text: &str) -> String {
    let mut visible = String::with_capacity(text.len());
    for character in text.chars() {
        let hidden = matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}');
        if character.is_control() || hidden {
            visible.extend(character.escape_default());
        } else {
            visible.push(character);
        }
    }
    visible
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[derive(Serialize)]
    struct Row {
        name: &'static str,
        slots: Option<i32>,
        note: &'static str,
    }

    impl TableRow for Row {
        const COLUMNS: &'static [&'static str] = &["name", "slots", "note"];

        fn cells(&self) -> Vec<String> {
            vec![
                self.name.into(),
                self.slots
                    .map(|slots| slots.to_string())
                    .unwrap_or_default(),
                self.note.into(),
            ]
        }
    }

    fn page(next_cursor: Option<&str>) -> Page<Row> {
        let items = vec![
            Row {
                name: "local",
                slots: Some(7),
                note: "",
            },
            Row {
                name: "日本",
                slots: None,
                note: "x\u{1b}[2J\u{9b}1m\u{202e}y\n",
            },
            Row {
                name: "a",
                slots: Some(1000),
                note: "long enough",
            },
        ];
        Page {
            items,
            next_cursor: next_cursor.map(str::to_owned),
        }
    }

    async fn body(response: Response) -> String {
        assert_eq!(response.headers()[header::VARY], "Accept");
        let bytes = response
            .into_body()
            .collect()
            .await
            .expect("a body")
            .to_bytes();
        String::from_utf8(bytes.to_vec()).expect("UTF-8")
    }

    #[tokio::test]
    async fn a_table_is_aligned_and_harmless() {
        let response = Listing::new(Format::Text, page(Some("abc"))).into_response();
        assert_eq!(
            response.headers()[header::CONTENT_TYPE],
            "text/plain; charset=utf-8"
        );
        let expected = "NAME   SLOTS  NOTE\n\
                        local      7  -\n\
                        日本       -  x\\u{1b}[2J\\u{9b}1m\\u{202e}y\\n\n\
                        a       1000  long enough\n\
                        more: ?cursor=abc\n";
        assert_eq!(body(response).await, expected);
        let empty = Page::<Row> {
            items: vec![],
            next_cursor: None,
        };
        assert_eq!(
            body(Listing::new(Format::Text, empty).into_response()).await,
            "NAME  SLOTS  NOTE\n"
        );
    }

    #[tokio::test]
    async fn json_otherwise() {
        let response = Listing::new(Format::Json, page(None)).into_response();
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
        let text = body(response).await;
        assert!(
            text.starts_with(r#"{"items":[{"name":"local","slots":7,"note":""}"#)
                && text.ends_with(r#""next_cursor":null}"#),
            "{text}"
        );
    }

    #[tokio::test]
    async fn an_object_is_a_line_for_each_field() {
        let item = Row {
            name: "local",
            slots: None,
            note: "a\tb",
        };
        assert_eq!(
            body(Item::new(Format::Text, &item).into_response()).await,
            "NAME   local\nSLOTS  -\nNOTE   a\\tb\n"
        );
        assert_eq!(
            body(Item::new(Format::Json, &item).into_response()).await,
            r#"{"name":"local","slots":null,"note":"a\tb"}"#
        );
    }
}
