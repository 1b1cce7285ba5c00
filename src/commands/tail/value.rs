//! JSON values that keep the order of their fields, because a publisher may have chosen it.

use std::fmt;

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Number;
use serde_json::value::RawValue;

/// Any JSON value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Self>),
    Object(Vec<(String, Self)>),
    /// Valid JSON that the other variants cannot hold: a huge number, half a surrogate pair, or deep nesting.
    Raw(String),
}

impl Value {
    /// Parses the data of a message.
    pub(super) fn of(data: &RawValue) -> Self {
        serde_json::from_str(data.get()).unwrap_or_else(|_| Self::Raw(data.get().to_owned()))
    }

    /// The fields of an object; empty for other values.
    pub(super) fn fields(&self) -> &[(String, Self)] {
        if let Self::Object(fields) = self { fields } else { &[] }
    }

    /// A field of an object, by name.
    pub(super) fn field(&self, name: &str) -> Option<&Self> {
        self.fields().iter().find(|(field, _)| field == name).map(|(_, value)| value)
    }

    /// An item of a list, by index.
    pub(super) fn item(&self, at: usize) -> Option<&Self> {
        if let Self::List(items) = self { items.get(at) } else { None }
    }

    /// The content of a string; empty for other values.
    pub(super) fn text(&self) -> &str {
        if let Self::Text(text) = self { text } else { "" }
    }

    /// A number; `None` for other values.
    pub(super) fn number(&self) -> Option<f64> {
        if let Self::Number(number) = self { number.as_f64() } else { None }
    }

    /// Sort key of a field for display: lists and objects first, then single values, then times.
    pub(super) fn rank(&self) -> u8 {
        match self {
            Self::List(_) | Self::Object(_) => 0,
            Self::Text(text) if is_time(text) => 2,
            _ => 1,
        }
    }
}

/// Whether a text begins like an RFC 3339 time: `2026-02-06T12`.
fn is_time(text: &str) -> bool {
    let digits = |range| text.get(range).is_some_and(|digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit()));
    digits(0..4) && digits(5..7) && digits(8..10) && text.get(10..11) == Some("T") && digits(11..13)
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = object.next_entry()? {
            fields.push(field);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keep_their_order() {
        let value: Value = serde_json::from_str(r#"{"home":1.85,"draw":3,"away":-4,"x":[null,true,"t"]}"#).unwrap();
        let names: Vec<_> = value.fields().iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["home", "draw", "away", "x"]);
        assert_eq!(value.field("away").and_then(Value::number), Some(-4.0));
        assert_eq!(value.field("x").and_then(|list| list.item(2)).map(Value::text), Some("t"));
    }

    #[test]
    fn times_differ_from_other_texts() {
        for (text, is) in
            [("2026-02-06T12:00:00Z", true), ("2026-02-06", false), ("öööööööööööööö", false), ("", false)]
        {
            assert_eq!(is_time(text), is, "{text}");
        }
    }
}
