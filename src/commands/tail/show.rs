//! Lines for people: time, topic, key, and the data with what has changed marked.

use std::cmp::Ordering;
use std::collections::HashMap;

use serde::Deserialize;
use unicode_width::UnicodeWidthChar as _;

use super::print::{Look, Notice, Tone};
use super::value::Value;
use crate::commands::printable;

/// Keys whose last data is remembered, to mark what changes. With more, all are forgotten, and marks begin anew.
const REMEMBERED: usize = 20_000;
/// Keys longer than this do not widen the column of keys.
const WIDEST_KEY: usize = 40;

const RESET: &str = "\x1b[0m";
const DIM: &str = "\x1b[2m";
const BOLD: &str = "\x1b[1m";
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const CYAN: &str = "\x1b[36m";

/// What is said of the connection, as a line.
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

/// Turns messages into lines.
pub(super) struct Show {
    look: Look,
    full: bool,
    topic_width: usize,
    key_width: usize,
    last: HashMap<String, Value>,
}

#[derive(Deserialize)]
struct Message {
    #[serde(rename = "type")]
    kind: String,
    topic: Option<String>,
    key: Option<String>,
    timestamp: Option<String>,
    data: Value,
}

impl Show {
    pub(super) fn new(look: Look, full: bool) -> Self {
        Self { look, full, topic_width: 0, key_width: 0, last: HashMap::new() }
    }

    /// The line of a message; nothing for one that is told elsewhere.
    pub(super) fn message(&mut self, text: &str) -> String {
        // What is no message is said by whoever reads the connection.
        let Ok(message) = serde_json::from_str::<Message>(text) else { return String::new() };
        let mut line = Text::new(self.look.colour, self.width());
        match (message.topic.as_deref(), message.kind.as_str()) {
            (Some(topic), _) => self.published(&mut line, topic, &message),
            (None, "connection_ack" | "reconnect" | "pong") => return String::new(),
            (None, "catch_up") => return self.catch_up(&message.data),
            (None, "caught_up") => {
                let position = message.data.field("position").map_or("", Value::text);
                line.put(GREEN, &format!("-- live from {}", printable(position)));
            }
            (None, "error") => {
                let detail = message.data.field("detail").map_or("", Value::text);
                line.put(YELLOW, &format!("!! {}", printable(detail)));
            }
            (None, kind) => {
                line.put(DIM, clock(message.timestamp.as_deref()));
                line.put(BOLD, &format!("  {}  ", printable(kind)));
                value(&mut line, &message.data, None);
            }
        }
        line.end()
    }

    fn published(&mut self, line: &mut Text, topic: &str, message: &Message) {
        self.topic_width = self.topic_width.max(topic.len());
        line.put(DIM, clock(message.timestamp.as_deref()));
        line.put(CYAN, &format!("  {:width$}", printable(topic), width = self.topic_width));
        let key = message.key.as_deref().map(printable);
        if let Some(key) = &key {
            self.key_width = self.key_width.max(width(key).min(WIDEST_KEY));
        }
        if self.key_width > 0 {
            let key = key.as_deref().unwrap_or_default();
            let padding = self.key_width.saturating_sub(width(key));
            line.put(BOLD, &format!("  {key}{:padding$}", ""));
        }
        line.put("", "  ");
        let Some(key) = &message.key else { return value(line, &message.data, None) };
        let name = format!("{topic}/{key}");
        if message.data == Value::Null {
            self.last.remove(&name);
            return line.put(RED, "deleted");
        }
        value(line, &message.data, self.last.get(&name));
        if self.last.len() >= REMEMBERED && !self.last.contains_key(&name) {
            self.last.clear();
        }
        self.last.insert(name, message.data.clone());
    }

    /// What a catch-up brings, and what is missing for good.
    fn catch_up(&self, data: &Value) -> String {
        let mut lines = String::new();
        let mut say = |style: &str, text: &str| {
            let mut line = Text::new(self.look.colour, self.width());
            line.put(style, text);
            lines += &line.end();
        };
        for (topic, told) in data.field("topics").map_or(&[][..], Value::fields) {
            let mode = told.field("mode").map_or("", Value::text);
            let (style, text) = match mode {
                "replayed" => (DIM, "-- every message since"),
                "conflated" => (YELLOW, "-- the latest of each key"),
                "snapshot" => (YELLOW, "-- the state as it is"),
                _ => (RED, "!! GAP, messages are lost: what is kept"),
            };
            let skipped = match told.field("skipped").and_then(Value::number) {
                Some(count) if count < 1.0 => String::new(),
                Some(count) => format!(", {count} skipped"),
                None => ", nobody knows how many were skipped".to_owned(),
            };
            say(style, &format!("{text} of {} ({}{skipped})", printable(topic), printable(mode)));
        }
        if let Some(count) = data.field("broadcasts_skipped").and_then(Value::number) {
            say(RED, &format!("!! {count} broadcasts are lost"));
        }
        lines
    }

    /// Where lines are cut: a terminal may change its width at any time.
    fn width(&self) -> Option<usize> {
        let cut = self.look.terminal && !self.full;
        cut.then(|| crossterm::terminal::size().map_or(80, |(columns, _)| usize::from(columns)))
    }
}

/// The time of day in a timestamp such as `2026-02-06T12:00:00.123Z`.
fn clock(timestamp: Option<&str>) -> &str {
    timestamp.and_then(|text| text.get(11..23)).filter(|text| text.is_ascii()).unwrap_or("            ")
}

/// The columns that a text takes.
fn width(text: &str) -> usize {
    text.chars().filter_map(unicode_width::UnicodeWidthChar::width).sum()
}

/// A value on one line: names dimmed, nulls left out, and behind a number that moved an arrow. What is likely to be looked
/// for stands first, since the line may be cut: numbers, then texts, then times.
fn value(line: &mut Text, now: &Value, before: Option<&Value>) {
    let Value::Object(fields) = now else { return nested(line, now, before) };
    let mut fields: Vec<_> = fields.iter().filter(|(_, field)| *field != Value::Null).collect();
    fields.sort_by_key(|(_, field)| field.rank());
    for (at, (name, field)) in fields.into_iter().enumerate() {
        line.put(DIM, &format!("{}{} ", if at > 0 { "  " } else { "" }, printable(name)));
        nested(line, field, before.and_then(|before| before.field(name)));
    }
}

/// A value inside another one, in brackets; of the objects in a list only the values, since their names are the same.
fn nested(line: &mut Text, now: &Value, before: Option<&Value>) {
    let changed = if before.is_some_and(|before| before != now) { YELLOW } else { "" };
    match now {
        Value::Null => line.put(DIM, "null"),
        Value::Bool(value) => line.put(changed, &value.to_string()),
        Value::Text(text) => line.put(changed, &printable(text)),
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

/// A line that is written piece by piece, and cut where the terminal ends.
struct Text {
    line: String,
    colour: bool,
    /// Columns that are left; `None` is no limit.
    room: Option<usize>,
    cut: bool,
}

impl Text {
    fn new(colour: bool, width: Option<usize>) -> Self {
        Self { line: String::new(), colour, room: width, cut: false }
    }

    fn put(&mut self, style: &str, piece: &str) {
        if self.cut || piece.is_empty() {
            return;
        }
        let styled = self.colour && !style.is_empty();
        if styled {
            self.line += style;
        }
        match self.room {
            Some(room) if width(piece) > room => self.put_cut(piece, room),
            room => {
                self.line += piece;
                self.room = room.map(|room| room - width(piece));
            }
        }
        if styled {
            self.line += RESET;
        }
    }

    /// Puts what fits, with the last column for the sign that there is more.
    fn put_cut(&mut self, piece: &str, room: usize) {
        let mut left = room.saturating_sub(1);
        for char in piece.chars() {
            let wide = char.width().unwrap_or(0);
            if wide > left {
                break;
            }
            left -= wide;
            self.line.push(char);
        }
        if room > 0 {
            self.line.push('…');
        } else {
            // The line is full to its last column: the sign takes the place of what stands there.
            self.replace_last();
        }
        self.cut = true;
    }

    fn replace_last(&mut self) {
        let visible = self.line.trim_end_matches(RESET).len();
        if let Some((at, char)) = self.line[..visible].char_indices().next_back() {
            self.line.replace_range(at..at + char.len_utf8(), "…");
        }
    }

    fn end(mut self) -> String {
        self.line.push('\n');
        self.line
    }
}
