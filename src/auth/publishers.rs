//! The publishers: their names, tokens and topics.

use super::token::Token;
use crate::topic::{Topic, Topics};

/// The name of the publisher whose token is the setting `publish-token`.
const DEFAULT_PUBLISHER: &str = "default";

/// A client that may publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publisher {
    /// The publisher's name in logs and metrics.
    pub name: String,
    token: Token,
    /// The topics that the publisher may publish to; `None` means all topics.
    topics: Option<Vec<Topic>>,
}

impl Publisher {
    /// Whether the publisher may publish to every topic, and broadcast.
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        self.topics.is_none()
    }

    /// Whether the publisher may publish to `topic`.
    #[must_use]
    pub fn may_publish(&self, topic: &Topic) -> bool {
        self.topics.as_ref().is_none_or(|topics| topics.contains(topic))
    }
}

/// All publishers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Publishers(Vec<Publisher>);

impl Publishers {
    /// Makes the publisher of the setting `publish-token`, and one publisher for each line `name:token[:topics]` of the
    /// file. A line may also be a token alone. Empty lines and lines that begin with `#` are ignored.
    pub fn new(token: Option<&Token>, file: Option<&str>, topics: &Topics) -> Result<Self, String> {
        let of_setting =
            token.map(|token| Publisher { name: DEFAULT_PUBLISHER.to_owned(), token: token.clone(), topics: None });
        let mut publishers: Vec<Publisher> = of_setting.into_iter().collect();
        let lines = file.into_iter().flat_map(str::lines).map(str::trim).enumerate();
        for (at, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            let publisher = publisher(line, topics).map_err(|error| format!("line {}: {error}", at + 1))?;
            if publishers.iter().any(|known| known.name == publisher.name) {
                return Err(format!("line {}: duplicate name '{}'", at + 1, publisher.name));
            }
            if publishers.iter().any(|known| known.token == publisher.token) {
                return Err(format!("line {}: '{}' has the token of another publisher", at + 1, publisher.name));
            }
            publishers.push(publisher);
        }
        if file.is_some() && publishers.is_empty() {
            return Err("it has no publisher: expected a line name:token[:topics], or a token alone".to_owned());
        }
        Ok(Self(publishers))
    }

    /// Whether there are no publishers.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Finds the publisher with this token. Compares every publisher's token, each in constant time.
    #[must_use]
    pub fn find(&self, token: &str) -> Option<&Publisher> {
        let mut found = None;
        for publisher in &self.0 {
            if bool::from(publisher.token.is(token)) {
                found = Some(publisher);
            }
        }
        found
    }
}

fn publisher(line: &str, topics: &Topics) -> Result<Publisher, String> {
    let mut parts = line.splitn(3, ':');
    let (first, second, third) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    let (name, token) = second.map_or((DEFAULT_PUBLISHER, first), |token| (first, token));
    let valid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    if !(1..=64).contains(&name.len()) || !name.bytes().all(valid) {
        return Err("expected name:token[:topics], the name 1 to 64 letters, digits, '_', '-' and '.'".to_owned());
    }
    let limited = third.map(|list| {
        // Do not show the third part of the line: it may belong to a token that contains a colon.
        let unknown = || format!("its third part must list topics; the topics are: {topics}");
        let known = |name: &str| topics.get(name.trim()).cloned().ok_or_else(unknown);
        list.split(',').map(known).collect()
    });
    Ok(Publisher { name: name.to_owned(), token: token.parse()?, topics: limited.transpose()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics() -> Topics {
        "scrape_progress,odds_updates".parse().unwrap()
    }

    #[test]
    fn publisher_has_a_token_and_the_topics_of_its_line() {
        let file = "# ours\nscraper:secret-1:odds_updates\n\nbackend:secret-2\n";
        let publishers = Publishers::new(Some(&"main".parse().unwrap()), Some(file), &topics()).unwrap();
        assert_eq!(publishers.find("main").unwrap().name, "default");
        let scraper = publishers.find("secret-1").unwrap();
        assert_eq!(scraper.name, "scraper");
        assert!(scraper.may_publish(&"odds_updates".parse().unwrap()));
        assert!(!scraper.may_publish(&"scrape_progress".parse().unwrap()));
        assert!(publishers.find("backend").is_none());
        assert!(publishers.find("").is_none());
    }

    #[test]
    fn error_names_the_invalid_line_of_the_token_file() {
        for (file, reason) in [
            ("a:b:c", "line 1: its third part must list topics"),
            ("a:b\nc:b", "line 2: 'c' has the token of another publisher"),
            ("\na b:c", "line 2: expected name:token"),
            ("a:", "line 1: expected 1 or more visible"),
            ("a:b\na:c", "line 2: duplicate name 'a'"),
        ] {
            let error = Publishers::new(None, Some(file), &topics()).unwrap_err();
            assert!(error.starts_with(reason), "{error}");
        }
    }
}
