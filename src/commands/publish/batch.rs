//! Combines lines into requests.

use std::borrow::Cow;

use bytes::Bytes;
use oddswire::topic::Topic;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::lines::{Line, Lines};
use crate::commands::settings::Publish;
use crate::commands::{Failure, counted};

/// The messages of one request.
#[derive(Debug, Default, Clone)]
pub(in crate::commands) struct Batch {
    lines: Vec<(u64, String)>,
    bytes: usize,
    read_to: u64,
}

impl Batch {
    /// Adds a message. `line` is the line number in the file, or 0 if the message is not from a file.
    pub(in crate::commands) fn push(&mut self, line: u64, message: String) {
        self.bytes += message.len() + 1;
        self.lines.push((line, message));
    }

    pub(in crate::commands) fn len(&self) -> usize {
        self.lines.len()
    }

    pub(in crate::commands) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Whether this message would make the batch exceed `messages` or `bytes`.
    pub(in crate::commands) fn is_full_for(&self, message: &str, messages: usize, bytes: usize) -> bool {
        self.len() >= messages || (!self.is_empty() && self.bytes + message.len() + 1 > bytes)
    }

    /// The body of the request: one message per line.
    pub(super) fn body(&self) -> Bytes {
        let mut body = String::with_capacity(self.bytes);
        for (_, message) in &self.lines {
            body += message;
            body.push('\n');
        }
        body.into()
    }

    /// The line number of the message with this index; `None` if the message is not from a file.
    pub(super) fn line(&self, index: usize) -> Option<u64> {
        self.lines.get(index).map(|(line, _)| *line).filter(|line| *line > 0)
    }

    pub(super) fn first_line(&self) -> u64 {
        self.line(0).unwrap_or(0)
    }

    pub(super) fn last_line(&self) -> u64 {
        self.lines.last().map_or(0, |(line, _)| *line)
    }

    /// How many bytes of the file were read when the batch was complete.
    pub(super) fn read_to(&self) -> u64 {
        self.read_to
    }

    /// Splits the batch in two.
    pub(super) fn halves(mut self) -> (Self, Self) {
        let second = self.lines.split_off(self.lines.len().div_ceil(2));
        let mut halves = [Self::default(), Self::default()];
        for (half, lines) in halves.iter_mut().zip([self.lines, second]) {
            half.read_to = self.read_to;
            for (line, message) in lines {
                half.push(line, message);
            }
        }
        halves.into()
    }
}

/// The batches of a file or pipe. A second run over the same file makes the same batches. So the server recognises the
/// batch that an interrupted run was sending. In a pipe, a batch ends where the next read would wait.
pub(super) struct Batches {
    lines: Lines,
    topic: Option<Topic>,
    messages: usize,
    bytes: usize,
    passed: u64,
    /// The line that did not fit into the previous batch, or the error to return after that batch.
    next: Option<Result<Line, Failure>>,
}

impl Batches {
    /// The batches of all lines after line number `passed`.
    pub(super) fn new(lines: Lines, settings: &Publish, passed: u64) -> Self {
        let (topic, messages, bytes) = (settings.topic.clone(), settings.batch_messages, settings.batch_bytes);
        Self { lines, topic, messages, bytes, passed, next: None }
    }

    fn read(&mut self) -> Option<Result<Line, Failure>> {
        self.next.take().or_else(|| {
            let line = self.lines.by_ref().find(|line| line.as_ref().map_or(true, |line| line.number > self.passed))?;
            Some(line.and_then(|line| {
                let text = message(&line.text, self.topic.as_ref());
                let text = text.map_err(|reason| Failure::Failed(format!("line {}: {reason}", line.number)))?;
                Ok(Line { number: line.number, text })
            }))
        })
    }
}

impl Iterator for Batches {
    type Item = Result<Batch, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut batch = Batch::default();
        while batch.is_empty() || self.next.is_some() || self.lines.has_another() {
            match self.read() {
                Some(Ok(line)) if !batch.is_full_for(&line.text, self.messages, self.bytes) => {
                    batch.push(line.number, line.text);
                }
                // Return the lines before an invalid line first. The next call returns the error.
                Some(Err(failure)) if batch.is_empty() => return Some(Err(failure)),
                next => {
                    self.next = next;
                    break;
                }
            }
        }
        let lines = self.lines.number();
        if batch.is_empty() && self.next.is_none() && lines < self.passed {
            // Report this error once. The next call returns `None`.
            let line = std::mem::take(&mut self.passed) + 1;
            return Some(Err(Failure::Usage(format!(
                "there is no line {line} to continue from: the file has {}",
                counted(lines, "line")
            ))));
        }
        batch.read_to = self.lines.read_to();
        (!batch.is_empty()).then_some(Ok(batch))
    }
}

/// The message of a line. If the line names no topic, adds `topic`. The server checks everything else.
fn message(text: &str, topic: Option<&Topic>) -> Result<String, String> {
    #[derive(Deserialize)]
    #[serde(expecting = "a message object")]
    struct Named<'a> {
        #[serde(borrow)]
        topic: Option<Cow<'a, str>>,
    }
    if !text.starts_with('{') {
        return Err("expected a JSON object with 'topic' and 'data'".to_owned());
    }
    serde_json::from_str::<IgnoredAny>(text).map_err(|error| format!("not JSON: {error}"))?;
    let named: Named<'_> = serde_json::from_str(text).map_err(|_| "'topic' must be a string, once".to_owned())?;
    match (named.topic, topic) {
        (Some(_), _) => Ok(text.to_owned()),
        (None, None) => Err("the line names no 'topic': set --topic".to_owned()),
        (None, Some(topic)) => {
            let rest = text[1..].trim_start();
            let comma = if rest == "}" { "" } else { "," };
            Ok(format!(r#"{{"topic":"{topic}"{comma}{rest}"#))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_is_added_if_a_line_names_none() {
        let topic: Topic = "odds".parse().unwrap();
        let with = |text: &str| message(text, Some(&topic)).unwrap();
        assert_eq!(with(r#"{ "data":1}"#), r#"{"topic":"odds","data":1}"#);
        assert_eq!(with(r#"{"data":{"topic":2}}"#), r#"{"topic":"odds","data":{"topic":2}}"#);
        assert_eq!(with(r#"{"data":1,"topic":"other"}"#), r#"{"data":1,"topic":"other"}"#);
        assert_eq!(with("{}"), r#"{"topic":"odds"}"#);
    }

    #[test]
    fn invalid_message_is_refused_with_the_reason() {
        for (text, says) in [
            ("[]", "expected a JSON object"),
            ("{", "not JSON"),
            (r#"{"data":1}"#, "--topic"),
            (r#"{"topic":1,"data":1}"#, "'topic' must be a string"),
        ] {
            let reason = message(text, None).unwrap_err();
            assert!(reason.contains(says), "{text}: {reason}");
        }
    }

    #[test]
    fn message_from_no_file_has_no_line() {
        let mut batch = Batch::default();
        batch.push(0, "made".to_owned());
        batch.push(7, "read".to_owned());
        assert_eq!((batch.line(0), batch.line(1)), (None, Some(7)));
    }

    #[test]
    fn halves_keep_all_lines_in_order() {
        let mut batch = Batch::default();
        (1..=5).for_each(|line| batch.push(line, format!("m{line}")));
        let (first, second) = batch.halves();
        assert_eq!((first.first_line(), first.last_line()), (1, 3));
        assert_eq!((second.first_line(), second.last_line()), (4, 5));
        assert_eq!(second.body(), "m4\nm5\n");
    }
}
