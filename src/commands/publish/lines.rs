//! Reads a file or a pipe line by line. Decompresses gzip.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;

use crate::commands::Failure;

/// The maximum length of a line, in bytes.
const MAX_LINE_BYTES: u64 = 16 << 20;
/// The first bytes of a gzip file (RFC 1952, section 2.3.1).
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// The lines of a file.
pub(in crate::commands) struct Lines {
    source: LineSource,
    name: String,
    /// Number of bytes read from the file, before decompression.
    read: Arc<AtomicU64>,
    /// Length of a regular file, in bytes.
    length: Option<u64>,
    /// Number of the last line that was read.
    number: u64,
}

enum LineSource {
    /// Nothing has been read yet, so the compression is unknown. Reading early could block on a pipe.
    Unknown(Option<Counted>),
    Plain(BufReader<Counted>),
    Gzip(BufReader<MultiGzDecoder<BufReader<Counted>>>),
}

/// A line that is not blank.
#[derive(Debug)]
pub(in crate::commands) struct Line {
    /// Line number; the first line is 1.
    pub(in crate::commands) number: u64,
    pub(in crate::commands) text: String,
}

impl Lines {
    /// Opens a file; `-` is standard input.
    pub(in crate::commands) fn open(path: &Path) -> Result<Self, Failure> {
        let name = if path.as_os_str() == "-" { "standard input".to_owned() } else { path.display().to_string() };
        let failed = |error: io::Error| Failure::Usage(format!("cannot read {name}: {error}"));
        let (input, length): (Box<dyn Read + Send>, _) = if path.as_os_str() == "-" {
            (Box::new(io::stdin()), None)
        } else {
            let file = File::open(path).map_err(failed)?;
            let facts = file.metadata().map_err(failed)?;
            if facts.is_dir() {
                return Err(Failure::Usage(format!("cannot read {name}: it is a directory")));
            }
            (Box::new(file), facts.is_file().then_some(facts.len()))
        };
        let read = Arc::new(AtomicU64::new(0));
        let source = LineSource::Unknown(Some(Counted { input, read: Arc::clone(&read) }));
        Ok(Self { source, name, read, length, number: 0 })
    }

    /// The length of a regular file, in bytes; `None` for a pipe.
    pub(in crate::commands) fn length(&self) -> Option<u64> {
        self.length
    }

    /// The number of lines read so far.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// How many bytes of the file were returned as lines. For a compressed file: how many compressed bytes were read.
    pub(in crate::commands) fn read_to(&self) -> u64 {
        let ahead = match &self.source {
            LineSource::Plain(reader) => reader.buffer().len() as u64,
            LineSource::Unknown(_) | LineSource::Gzip(_) => 0,
        };
        self.read.load(Ordering::Relaxed).saturating_sub(ahead)
    }

    /// Whether the next line can be read without waiting.
    pub(in crate::commands) fn has_another(&self) -> bool {
        self.length.is_some() || self.source.buffered().contains(&b'\n')
    }

    fn read_line(&mut self) -> Result<Option<Line>, Failure> {
        loop {
            let mut bytes = Vec::new();
            let reader = self.source.reader();
            let read = reader.and_then(|reader| reader.take(MAX_LINE_BYTES + 1).read_until(b'\n', &mut bytes));
            read.map_err(|error| {
                Failure::Failed(format!("cannot read {} after line {}: {error}", self.name, self.number))
            })?;
            if bytes.is_empty() {
                return Ok(None);
            }
            self.number += 1;
            let number = self.number;
            if bytes.len() as u64 > MAX_LINE_BYTES {
                return Err(Failure::Failed(format!("line {number}: longer than {MAX_LINE_BYTES} bytes")));
            }
            let text = String::from_utf8(bytes).map_err(|error| {
                let at = error.utf8_error().valid_up_to();
                Failure::Failed(format!("line {number}: invalid UTF-8 at byte {at}"))
            })?;
            // Some editors write a byte order mark before the first line.
            let text = if number == 1 { text.trim_start_matches('\u{feff}') } else { &text }.trim();
            if !text.is_empty() {
                return Ok(Some(Line { number, text: text.to_owned() }));
            }
        }
    }
}

impl Iterator for Lines {
    type Item = Result<Line, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read_line().transpose()
    }
}

impl LineSource {
    fn of(input: Counted) -> io::Result<Self> {
        let mut input = BufReader::with_capacity(64 << 10, input);
        // A pipe may deliver its first byte alone. In that case, compressed data is not recognised and is read as text.
        if input.fill_buf()?.starts_with(&GZIP) {
            return Ok(Self::Gzip(BufReader::with_capacity(64 << 10, MultiGzDecoder::new(input))));
        }
        Ok(Self::Plain(input))
    }

    fn reader(&mut self) -> io::Result<&mut dyn BufRead> {
        if let Self::Unknown(input) = self
            && let Some(input) = input.take()
        {
            *self = Self::of(input)?;
        }
        match self {
            Self::Unknown(_) => Err(io::Error::other("an earlier read failed")),
            Self::Plain(reader) => Ok(reader),
            Self::Gzip(reader) => Ok(reader),
        }
    }

    fn buffered(&self) -> &[u8] {
        match self {
            Self::Unknown(_) => &[],
            Self::Plain(reader) => reader.buffer(),
            Self::Gzip(reader) => reader.buffer(),
        }
    }
}

/// An input, with a count of the bytes that were read from it.
struct Counted {
    input: Box<dyn Read + Send>,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}
