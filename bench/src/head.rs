//! The head of an HTTP response.

use anyhow::{Context, Result, ensure};

/// More than any reasonable response head needs.
const MAX_BYTES: usize = 16 * 1024;

const MAX_FIELDS: usize = 32;

/// What matters of a response head.
#[derive(Debug, PartialEq)]
pub struct Head {
    pub status: u16,
    /// How many bytes the head takes.
    pub size: usize,
    /// The length of the body, where the head says it.
    pub content_length: Option<usize>,
    /// Whether the body comes in chunks.
    pub chunked: bool,
}

impl Head {
    /// Reads the head at the start of `bytes`; `None` if it is incomplete.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>> {
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut response = httparse::Response::new(&mut fields);
        let parsed = response.parse(bytes).context("this is no HTTP response")?;
        let httparse::Status::Complete(size) = parsed else {
            ensure!(bytes.len() <= MAX_BYTES, "the response head is longer than {MAX_BYTES} bytes");
            return Ok(None);
        };
        let value = |name: &str| {
            let field = response.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
            field.and_then(|field| std::str::from_utf8(field.value).ok()).map(str::trim)
        };
        let length = value("content-length").map(str::parse).transpose();
        Ok(Some(Self {
            status: response.code.context("the response has no status")?,
            size,
            content_length: length.context("the content length is no number")?,
            chunked: value("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_once_it_is_complete() -> Result<()> {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        for end in 0..text.len() - 2 {
            assert_eq!(Head::parse(&text[..end])?, None);
        }
        let head = Head { status: 200, size: text.len() - 2, content_length: Some(2), chunked: false };
        assert_eq!(Head::parse(text)?, Some(head));
        let chunked = Head::parse(b"HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n")?;
        assert!(chunked.is_some_and(|head| head.chunked && head.content_length.is_none()));
        Ok(())
    }

    #[test]
    fn what_is_no_head_or_has_no_end_is_an_error() {
        assert!(Head::parse(b"\x81\x02{}").is_err());
        let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(MAX_BYTES));
        assert!(Head::parse(endless.as_bytes()).is_err());
    }
}
