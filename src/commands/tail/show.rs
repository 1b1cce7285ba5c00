//! Formats messages for people: time, topic, key, and data with changes marked.

use std::cmp::Ordering;
use std::collections::HashMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use unicode_width::UnicodeWidthChar as _;

use super::notice::{Look, Notice, Tone};
use super::value::Value;
use crate::commands::{counted, printable};

/// The maximum number of keys whose latest data is remembered to mark changes. When the number is exceeded, the data of
/// all keys is forgotten.
const REMEMBERED: usize = 20_000;
/// The maximum width of the column of keys. Longer keys do not widen the column.
const WIDEST_KEY: usize = 28;

const RESET: &str = "\x1b[0m";
const DIM: &str = "\x1b[2m";
const BOLD: &str = "\x1b[1m";
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const CYAN: &str = "\x1b[36m";

/// Formats a notice about the connection.
pub(super) fn notice(notice: &Notice, colour: bool) -> String {
    let (mark, style) = match notice.tone {
        Tone::Good => ("--", GREEN),
        Tone::Aside => ("--", DIM),
        Tone::Warning => ("!!", YELLOW),
    };
    let mut line = Text::new(colour, None);
    line.put(style, &format!("{mark} {}", notice.text));
    line.end()
}

/// Formats messages as lines of text.
pub(super) struct Show {
    look: Look,
    full: bool,
    topic_width: usize,
    key_width: usize,
    last: HashMap<String, Value>,
}

/// The envelope of a message. `data` is parsed separately. If [`Value`] cannot hold it, for example because of a number
/// that is too large, it is shown unchanged.
#[derive(Deserialize)]
struct ReceivedMessage<'a> {
    #[serde(rename = "type")]
    kind: String,
    topic: Option<String>,
    key: Option<String>,
    timestamp: Option<String>,
    #[serde(borrow)]
    data: &'a RawValue,
}

impl Show {
    pub(super) fn new(look: Look, full: bool) -> Self {
        Self { look, full, topic_width: 0, key_width: 0, last: HashMap::new() }
    }

    /// Formats a message; returns an empty text if a notice reports the message instead.
    pub(super) fn message(&mut self, text: &str) -> String {
        // `Follower` has already reported the invalid message.
        let Ok(message) = serde_json::from_str::<ReceivedMessage<'_>>(text) else { return String::new() };
        let data = Value::of(message.data);
        let mut line = Text::new(self.look.colour, self.width());
        match (message.topic.as_deref(), message.kind.as_str()) {
            (Some(topic), _) => self.published(&mut line, topic, &message, data),
            (None, "connection_ack" | "reconnect" | "pong") => return String::new(),
            (None, "catch_up") => return self.catch_up(&data),
            (None, "caught_up") => {
                let position = data.field("position").map_or("", Value::text);
                line.put(GREEN, &format!("-- live from {}", printable(position)));
            }
            (None, "error") => {
                let detail = data.field("detail").map_or("", Value::text);
                line.put(YELLOW, &format!("!! {}", printable(detail)));
            }
            (None, kind) => {
                line.put(DIM, clock(message.timestamp.as_deref()));
                line.put(BOLD, &format!("  {}  ", printable(kind)));
                value(&mut line, &data, None);
            }
        }
        line.end()
    }

    fn published(&mut self, line: &mut Text, topic: &str, message: &ReceivedMessage<'_>, data: Value) {
        self.topic_width = self.topic_width.max(topic.len());
        line.put(DIM, clock(message.timestamp.as_deref()));
        line.put(CYAN, &format!("  {:width$}", printable(topic), width = self.topic_width));
        let Some(key) = &message.key else {
            line.put("", "  ");
            return value(line, &data, None);
        };
        let shown = printable(key);
        self.key_width = self.key_width.max(width(&shown).min(WIDEST_KEY));
        let padding = self.key_width.saturating_sub(width(&shown));
        line.put(BOLD, &format!("  {shown}{:padding$}  ", ""));
        let name = format!("{topic}/{key}");
        if data == Value::Null {
            self.last.remove(&name);
            return line.put(RED, "deleted");
        }
        value(line, &data, self.last.get(&name));
        if self.last.len() >= REMEMBERED && !self.last.contains_key(&name) {
            self.last.clear();
        }
        self.last.insert(name, data);
    }

    /// Formats a `catch_up` message: what the catch-up delivers, and which messages are lost.
    fn catch_up(&self, data: &Value) -> String {
        let mut lines = String::new();
        let mut say = |style: &'static str, text: &str| {
            let mut line = Text::new(self.look.colour, self.width());
            line.put(style, text);
            lines += &line.end();
        };
        for (topic, told) in data.field("topics").map_or(&[][..], Value::fields) {
            let mode = told.field("mode").map_or("", Value::text);
            let count = match told.field("skipped").and_then(Value::number) {
                Some(count) if count < 1.0 => String::new(),
                Some(count) => format!(", {count} skipped"),
                None => ", an unknown number skipped".to_owned(),
            };
            let topic = printable(topic);
            match mode {
                "replayed" => say(DIM, &format!("-- catching up with {topic}: every message{count}")),
                "conflated" => {
                    say(YELLOW, &format!("-- catching up with {topic}: the latest value of each key{count}"));
                }
                "snapshot" => say(YELLOW, &format!("-- catching up with {topic}: the whole state{count}")),
                _ => say(RED, &format!("!! GAP in {topic}: messages are lost{count}")),
            }
        }
        if let Some(count) = data.field("broadcasts_skipped").and_then(Value::number) {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the server sends a count")]
            let lost = counted(count as u64, "broadcast");
            say(RED, &format!("!! {lost} lost"));
        }
        lines
    }

    /// The width at which lines are cut; `None` means no limit. Asks the terminal each time, because the user can
    /// change its width.
    fn width(&self) -> Option<usize> {
        let cut = self.look.terminal && !self.full;
        cut.then(columns)
    }
}

/// The number of columns of the terminal; 80 if the number is unknown.
fn columns() -> usize {
    crossterm::terminal::size()
        .ok()
        .map(|(columns, _)| usize::from(columns))
        .filter(|columns| *columns > 0)
        .unwrap_or(80)
}

/// The time of day in a timestamp such as `2026-02-06T12:00:00.123Z`.
fn clock(timestamp: Option<&str>) -> &str {
    let time = timestamp.and_then(|text| text.get(11..23));
    time.filter(|text| text.bytes().all(|byte| byte.is_ascii_graphic())).unwrap_or("            ")
}

/// The number of terminal columns that a text occupies.
fn width(text: &str) -> usize {
    text.chars().filter_map(unicode_width::UnicodeWidthChar::width).sum()
}

/// Writes a value on one line: dims names, leaves out nulls, and marks numbers that changed with an arrow. Lists, such as
/// prices, come first and times last, because the line may be cut.
fn value(line: &mut Text, now: &Value, before: Option<&Value>) {
    let Value::Object(fields) = now else { return nested(line, now, before) };
    let mut fields: Vec<_> = fields.iter().filter(|(_, field)| *field != Value::Null).collect();
    fields.sort_by_key(|(_, field)| field.rank());
    for (at, (name, field)) in fields.into_iter().enumerate() {
        line.put(DIM, &format!("{}{} ", if at > 0 { "  " } else { "" }, printable(name)));
        nested(line, field, before.and_then(|before| before.field(name)));
    }
}

/// Writes a value inside another value, in brackets. Objects in a list are written without field names, because all of
/// them have the same names.
fn nested(line: &mut Text, now: &Value, before: Option<&Value>) {
    let changed = if before.is_some_and(|before| before != now) { YELLOW } else { "" };
    match now {
        Value::Null => line.put(DIM, "null"),
        Value::Bool(value) => line.put(changed, &value.to_string()),
        Value::Text(text) | Value::Raw(text) => line.put(changed, &printable(text)),
        Value::Number(number) => moved(line, number, before),
        Value::List(items) => {
            line.put(DIM, "[");
            for (at, item) in items.iter().enumerate() {
                line.put(DIM, if at > 0 { ", " } else { "" });
                element(line, item, before.and_then(|before| before.item(at)));
            }
            line.put(DIM, "]");
        }
        Value::Object(_) => {
            line.put(DIM, "{");
            value(line, now, before);
            line.put(DIM, "}");
        }
    }
}

fn element(line: &mut Text, now: &Value, before: Option<&Value>) {
    let fields: Vec<_> = match now {
        Value::Object(fields) => {
            fields.iter().map(|(name, field)| (field, before.and_then(|before| before.field(name)))).collect()
        }
        Value::List(items) => {
            items.iter().enumerate().map(|(at, item)| (item, before.and_then(|before| before.item(at)))).collect()
        }
        other => return nested(line, other, before),
    };
    for (at, (field, before)) in fields.into_iter().filter(|(field, _)| **field != Value::Null).enumerate() {
        line.put("", if at > 0 { " " } else { "" });
        nested(line, field, before);
    }
}

fn moved(line: &mut Text, now: &serde_json::Number, before: Option<&Value>) {
    let before = before.and_then(Value::number);
    match before.zip(now.as_f64()).map(|(before, now)| now.total_cmp(&before)) {
        Some(Ordering::Greater) => line.put(GREEN, &format!("{now}▲")),
        Some(Ordering::Less) => line.put(RED, &format!("{now}▼")),
        _ => line.put("", &now.to_string()),
    }
}

/// A line made of pieces, which is cut at the width of the terminal.
struct Text {
    pieces: Vec<(&'static str, String)>,
    colour: bool,
    /// Available columns; `None` means no limit.
    width: Option<usize>,
}

impl Text {
    fn new(colour: bool, width: Option<usize>) -> Self {
        Self { pieces: Vec::new(), colour, width }
    }

    fn put(&mut self, style: &'static str, piece: &str) {
        self.pieces.push((style, piece.to_owned()));
    }

    /// The complete line. A line that is cut ends with `…`.
    fn end(self) -> String {
        let needed: usize = self.pieces.iter().map(|(_, piece)| width(piece)).sum();
        let is_cut = self.width.is_some_and(|width| needed > width);
        let mut left = if is_cut { self.width.unwrap_or(0).saturating_sub(1) } else { usize::MAX };
        let mut line = String::new();
        for (style, piece) in self.pieces {
            let fitting = fitting(&piece, &mut left);
            if self.colour && !style.is_empty() && !fitting.is_empty() {
                line.extend([style, fitting, RESET]);
            } else {
                line += fitting;
            }
        }
        line + if is_cut { "…\n" } else { "\n" }
    }
}

/// The part of a text that fits into `left` columns. Subtracts the used columns from `left`; sets `left` to 0 if the
/// text is cut.
fn fitting<'a>(text: &'a str, left: &mut usize) -> &'a str {
    for (at, char) in text.char_indices() {
        let wide = char.width().unwrap_or(0);
        if wide > *left {
            *left = 0;
            return &text[..at];
        }
        *left -= wide;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Look = Look { terminal: false, colour: false };

    fn odds(price: &str) -> String {
        format!(
            r#"{{"type":"o","topic":"odds","id":"1-1","key":"8301/1x2","timestamp":"2026-02-06T12:00:00.123Z",{}{price}{}}}"#,
            r#""data":{"at":"2026-02-06T12:00:00Z","home":"#,
            r#","none":null,"outcomes":[{"name":"Mönchen","price":2}]}"#
        )
    }

    #[test]
    fn changed_price_has_an_arrow_and_times_come_last() {
        let mut show = Show::new(PLAIN, false);
        let rest = "at 2026-02-06T12:00:00Z\n";
        for (price, shown) in [("1.85", "1.85"), ("1.9", "1.9▲"), ("1.9", "1.9"), ("1.8", "1.8▼")] {
            let line = show.message(&odds(price));
            assert_eq!(line, format!("12:00:00.123  odds  8301/1x2  outcomes [Mönchen 2]  home {shown}  {rest}"));
        }
    }

    #[test]
    fn long_line_is_cut_at_the_last_column() {
        for (text, columns, cut) in
            [("abcdef", 6, "abcdef"), ("abcdef", 5, "abcd…"), ("日本語", 5, "日本…"), ("日本語", 4, "日…")]
        {
            let mut line = Text::new(true, Some(columns));
            line.put("", &text[..text.char_indices().nth(1).unwrap().0]);
            line.put("", &text[text.char_indices().nth(1).unwrap().0..]);
            assert_eq!(line.end().trim_end(), cut, "{text} in {columns}");
        }
    }

    #[test]
    fn every_style_is_reset_in_a_cut_line() {
        for columns in 0..60 {
            let mut line = Text::new(true, Some(columns));
            for piece in 0..10 {
                line.put([DIM, GREEN, RED][piece % 3], "four");
            }
            let line = line.end();
            assert_eq!(line.matches(RESET).count() * 2, line.matches('\x1b').count(), "{columns}: {line:?}");
        }
    }

    #[test]
    fn message_cannot_steer_the_terminal() {
        let evil = r#"{"type":"o","topic":"odds","key":"8301\u009b2J","timestamp":"\u001b[2J\u001b[2J\u001b[2J\u001b[2J\u001b[2J","data":{"\u001b]0;x\u0007":"\u001b[2J"}}"#;
        let line = Show::new(PLAIN, false).message(evil);
        assert!(!line.trim_end().contains(char::is_control), "{line:?}");
    }

    #[test]
    fn data_beyond_value_is_shown_unchanged() {
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        for data in [r#"{"a":1e999}"#, r#"{"a":"\ud800"}"#, deep.as_str(), "{\"a\":\n1e999}"] {
            let text = |key: &str| {
                format!(r#"{{"type":"o","topic":"odds",{key}"timestamp":"2026-02-06T12:00:00.123Z","data":{data}}}"#)
            };
            let shown = data.replace('\n', "\\n");
            let line = Show::new(PLAIN, false).message(&text(r#""key":"8301/1x2","#));
            assert_eq!(line, format!("12:00:00.123  odds  8301/1x2  {shown}\n"));
            let line = Show::new(PLAIN, false).message(&text(""));
            assert_eq!(line, format!("12:00:00.123  odds  {shown}\n"));
        }
    }

    #[test]
    fn catch_up_says_what_is_missing() {
        let said = |mode: &str, skipped: &str| {
            let text = format!(
                r#"{{"type":"catch_up","data":{{"topics":{{"odds":{{"mode":"{mode}","skipped":{skipped}}}}}}}}}"#
            );
            Show::new(PLAIN, false).message(&text)
        };
        assert_eq!(said("replayed", "0"), "-- catching up with odds: every message\n");
        assert_eq!(said("conflated", "12"), "-- catching up with odds: the latest value of each key, 12 skipped\n");
        assert_eq!(said("gap", "null"), "!! GAP in odds: messages are lost, an unknown number skipped\n");
    }
}
