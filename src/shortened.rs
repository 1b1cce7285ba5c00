//! Shortens text from a peer for an error message or a log line.

/// The maximum number of characters that [`shortened`] keeps.
const SHOWN: usize = 80;

/// Escapes control characters and quotes, and replaces everything after 80 characters with `…`. So a reply stays small
/// even if the request is large, and text from a peer never breaks a log line.
pub(crate) fn shortened(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::shortened;

    #[test]
    fn text_of_80_characters_is_shown_whole() {
        let text = "ö".repeat(80);
        assert_eq!(shortened(&text), text);
        assert_eq!(shortened(&format!("{text}x")), format!("{text}…"));
    }

    #[test]
    fn control_characters_and_quotes_are_escaped() {
        assert_eq!(shortened("a\n\"b'"), "a\\n\\\"b\\'");
    }
}
