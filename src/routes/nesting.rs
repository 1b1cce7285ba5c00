//! Counts how deeply a publisher's `data` is nested.
//!
//! The server passes `data` on without parsing it. Clients parse `data`, often with recursive parsers. The parser of
//! Python fails at about 1,000 levels, which ends the client.

/// The maximum number of levels of arrays and objects inside each other in `data`.
pub(super) const MAX_LEVELS: usize = 128;

/// The number of levels of arrays and objects inside each other in a valid JSON text. Returns 0 if the text is too
/// short to have [`MAX_LEVELS`].
pub(super) fn levels(json: &[u8]) -> usize {
    // Each level needs two brackets, so most messages are too short to exceed the limit.
    if json.len() < 2 * MAX_LEVELS {
        return 0;
    }
    let (mut level, mut deepest, mut at) = (0_usize, 0, 0);
    while let Some(byte) = json.get(at) {
        at += 1;
        match byte {
            b'[' | b'{' => {
                level += 1;
                deepest = deepest.max(level);
            }
            b']' | b'}' => level = level.saturating_sub(1),
            b'"' => at = end_of_string(json, at),
            _ => {}
        }
    }
    deepest
}

/// Finds the end of the JSON string that begins before `at`. Brackets in a string are not levels.
fn end_of_string(json: &[u8], mut at: usize) -> usize {
    while let Some(found) = json.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        at += found + 1;
        if json[at - 1] == b'"' {
            return at;
        }
        // A backslash escapes the next byte.
        at += 1;
    }
    json.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// A simple model of `levels`, by recursion.
    fn levels_of(value: &Value) -> usize {
        match value {
            Value::Array(list) => 1 + list.iter().map(levels_of).max().unwrap_or(0),
            Value::Object(object) => 1 + object.values().map(levels_of).max().unwrap_or(0),
            _ => 0,
        }
    }

    #[test]
    fn arrays_and_objects_count_alike() {
        let nested = |open: &str, close: &str, times| open.repeat(times) + "1" + &close.repeat(times);
        for times in [MAX_LEVELS, MAX_LEVELS + 1, 100_000] {
            assert_eq!(levels(nested("[", "]", times).as_bytes()), times);
            assert_eq!(levels(nested("{\"a\":", "}", times).as_bytes()), times);
        }
    }

    #[test]
    fn brackets_in_strings_do_not_count() {
        let text = format!("[{}]", serde_json::to_string(&"[{\\\"[".repeat(100)).unwrap());
        assert_eq!(levels(text.as_bytes()), 1);
    }

    proptest! {
        #[test]
        fn levels_are_those_of_the_parsed_value(
            texts in prop::collection::vec("[\\[\\]{}\"\\\\a]{0,20}", 8..30),
            wraps in prop::collection::vec(any::<bool>(), 0..100),
        ) {
            let padding = "x".repeat(2 * MAX_LEVELS);
            let mut value = json!([padding, texts]);
            for wrap in wraps {
                value = if wrap { json!([value, "]"]) } else { json!({ "{": value }) };
            }
            prop_assert_eq!(levels(value.to_string().as_bytes()), levels_of(&value));
        }
    }
}
