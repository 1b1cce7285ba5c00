//! Parses the head of an HTTP response.

use anyhow::{Context, Result, ensure};

/// The maximum length of a response head in bytes.
const MAX_BYTES: usize = 16 * 1024;

const MAX_FIELDS: usize = 32;

/// A response head.
#[derive(Debug, PartialEq)]
pub struct Head {
    pub status: u16,
    /// The length of the head in bytes.
    pub size: usize,
    /// The length of the body in bytes; `None` if the head has no `Content-Length`.
    pub content_length: Option<usize>,
}

impl Head {
    /// Parses the head at the start of `bytes`; `None` if the head is incomplete.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>> {
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut response = httparse::Response::new(&mut fields);
        let parsed = response.parse(bytes).context("invalid HTTP response")?;
        let httparse::Status::Complete(size) = parsed else {
            ensure!(bytes.len() <= MAX_BYTES, "the response head is too long: expected at most {MAX_BYTES} bytes");
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
            content_length: length.context("invalid Content-Length: expected a number")?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_is_parsed_when_it_is_complete() -> Result<()> {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        for end in 0..text.len() - 2 {
            assert_eq!(Head::parse(&text[..end])?, None);
        }
        let head = Head { status: 200, size: text.len() - 2, content_length: Some(2) };
        assert_eq!(Head::parse(text)?, Some(head));
        let unknown = Head::parse(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
        assert!(unknown.is_some_and(|head| head.content_length.is_none()));
        Ok(())
    }

    #[test]
    fn invalid_and_endless_heads_are_errors() {
        assert!(Head::parse(b"\x81\x02{}").is_err());
        let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(MAX_BYTES));
        assert!(Head::parse(endless.as_bytes()).is_err());
    }
}
