//! The journal's directory. Locks the directory, and opens, checks and renames the journal's file.
//!
//! Invariants: every byte of a file that cannot be used stays unchanged. Only the process that holds the lock of the
//! directory opens files in it.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use redb::backends::FileBackend;
use redb::{Database, StorageBackend};

use super::format::{self, UpgradeError};
use super::store::{FileContents, ReadError};
use crate::engine::EngineError;
use crate::topic::Topics;

/// The name of the journal's file.
const NAME: &str = "oddswire.redb";
/// The name of a new journal until it is complete and is renamed to [`NAME`]. It replaces a missing journal, or one
/// whose sync failed.
const NEW: &str = "oddswire.redb.new";
/// The name of a marker file. It exists from a failed sync until a new file has replaced the affected journal.
const UNSYNCED: &str = "oddswire.unsynced";
/// The name of the file that the process using the directory keeps locked.
const LOCK: &str = "oddswire.lock";
/// The size of redb's cache in bytes. A small cache suffices, because clients are served from the log in memory.
const CACHE_BYTES: usize = 16 << 20;

/// A function that creates the backend through which redb reads and writes a file. Tests inject faults with it.
pub(super) type Medium = Arc<dyn Fn(File) -> io::Result<Box<dyn StorageBackend>> + Send + Sync>;

/// The backend for production, which uses the file directly.
pub(super) fn plain() -> Medium {
    Arc::new(|file| {
        let backend = FileBackend::new(file).map_err(io::Error::other)?;
        Ok(Box::new(backend))
    })
}

/// The journal's directory, locked by this process.
pub(super) struct Place {
    path: PathBuf,
    medium: Medium,
    /// Whether a sync has failed. The kernel then treats the pages that it could not write as written. So new data in
    /// this file would depend on pages that the disk does not have.
    unsynced: Arc<AtomicBool>,
    /// The open lock file. The directory stays locked until this file is closed.
    _lock: File,
}

impl Place {
    /// Locks the directory, and creates it if it is missing.
    pub(super) fn take(directory: &Path, medium: Medium) -> Result<Self, EngineError> {
        let error = |error: &dyn std::fmt::Display| {
            EngineError(format!("data-dir '{}' cannot be used: {error}", directory.display()))
        };
        fs::create_dir_all(directory).map_err(|cause| error(&cause))?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(directory.join(LOCK));
        let lock = lock.map_err(|cause| error(&cause))?;
        match lock.try_lock() {
            Ok(()) => {
                // The previous process may have ended right after a failed sync. The marker file then still exists.
                let unsynced = Arc::new(AtomicBool::new(directory.join(UNSYNCED).exists()));
                Ok(Self { path: directory.join(NAME), medium, unsynced, _lock: lock })
            }
            Err(TryLockError::WouldBlock) => {
                Err(error(&"another oddswire process uses it; give each process its own directory"))
            }
            Err(TryLockError::Error(cause)) => Err(error(&cause)),
        }
    }

    /// The path of the journal's file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The length of the file in bytes.
    pub(super) fn bytes(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |metadata| metadata.len())
    }

    /// Renames the file by appending this time in Unix milliseconds. Returns the new path, or `None` if there was no
    /// file.
    pub(super) fn set_aside(&self, millis: i64) -> Result<Option<PathBuf>, EngineError> {
        let aside = self.path.with_file_name(format!("{NAME}.{millis}"));
        match fs::rename(&self.path, &aside) {
            Ok(()) => Ok(Some(aside)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.unusable(&format!("it cannot be renamed: {error}"))),
        }
    }

    /// Reads the whole file and checks every page, without changing the file. `None` if the file is missing or empty.
    pub(super) fn read(&self, topics: &Topics) -> Result<Option<FileContents>, EngineError> {
        let file = match OpenOptions::new().read(true).write(true).open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.unusable(&error)),
        };
        if file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() == 0) {
            return Ok(None);
        }
        let overlay = Overlay::over(file).map_err(|error| self.unusable(&error))?;
        let database = overlay.open(true);
        let kept = database.and_then(|database| Ok(FileContents::read(&database, topics)?));
        kept.map_err(|error: UpgradeError| {
            let way_out = match error {
                UpgradeError::Unusable(ReadError::Newer { .. }) => "start the version that wrote it, or",
                UpgradeError::Unusable(_) | UpgradeError::Unwritten(_) => "restore it from a copy, or",
            };
            self.unusable(&format!(
                "{error}; {way_out} start once with --reset-data, which renames it and starts with an empty one"
            ))
        })
    }

    fn unusable(&self, cause: &dyn std::fmt::Display) -> EngineError {
        EngineError(format!("the journal '{}' cannot be used: {cause}", self.path.display()))
    }

    /// Opens the file for reading. Whatever redb writes stays in memory.
    pub(super) fn look(&self) -> Result<Database, String> {
        let overlay = File::open(&self.path).and_then(Overlay::over).map_err(|error| error.to_string())?;
        overlay.open(false).map_err(|error| error.to_string())
    }

    /// Opens the file for writing.
    pub(super) fn open(&self) -> Result<Database, String> {
        self.open_at(&self.path, false)
    }

    fn open_at(&self, path: &Path, empty: bool) -> Result<Database, String> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(empty).open(path);
        let file = file.map_err(|error| error.to_string())?;
        let inner = (self.medium)(file).map_err(|error| error.to_string())?;
        let backend = Watched { inner, unsynced: Arc::clone(&self.unsynced), mark: self.path.with_file_name(UNSYNCED) };
        let mut builder = Database::builder();
        let database = builder.set_cache_size(CACHE_BYTES).create_with_backend(backend);
        let database = database.map_err(|error| error.to_string())?;
        format::upgrade(&database).map_err(|error| error.to_string())?;
        Ok(database)
    }

    /// Whether a sync of the file has failed. Nothing may be added to the file then.
    pub(super) fn is_unsynced(&self) -> bool {
        self.unsynced.load(Ordering::Relaxed)
    }

    /// Creates an empty file under another name, for [`Self::replace`].
    pub(super) fn open_new(&self) -> Result<Database, String> {
        self.open_at(&self.path.with_file_name(NEW), true)
    }

    /// Replaces the present file with the new one, whose data must be on the disk already.
    pub(super) fn replace(&self) -> io::Result<()> {
        fs::rename(self.path.with_file_name(NEW), &self.path)?;
        self.settle_name()?;
        self.unsynced.store(false, Ordering::Relaxed);
        match fs::remove_file(self.path.with_file_name(UNSYNCED)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Syncs the directory, so that the name of the file, like its contents, survives a power loss.
    pub(super) fn settle_name(&self) -> io::Result<()> {
        let directory = self.path.parent().map(File::open).transpose()?;
        directory.map_or(Ok(()), |directory| directory.sync_all())
    }
}

/// A backend that records failed syncs.
#[derive(Debug)]
struct Watched {
    inner: Box<dyn StorageBackend>,
    unsynced: Arc<AtomicBool>,
    mark: PathBuf,
}

impl StorageBackend for Watched {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data().inspect_err(|_| {
            self.unsynced.store(true, Ordering::Relaxed);
            // The marker is for the next process. If it cannot be created, this process still has the flag.
            let _ = File::create(&self.mark);
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.inner.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }
}

/// A file with changes that exist only in memory.
#[derive(Debug)]
struct Overlay {
    file: File,
    written: Mutex<OverlayPages>,
}

/// The changes to a file that the overlay keeps in memory.
#[derive(Debug)]
struct OverlayPages {
    len: u64,
    /// The number of bytes at the start of the file that are still visible. Truncating the overlay reduces it.
    shown: u64,
    pages: BTreeMap<u64, Box<[u8]>>,
}

/// The size in bytes of the pages in which the overlay keeps changes.
const PAGE: u64 = 4096;

impl Overlay {
    fn over(file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        let written = OverlayPages { len, shown: len, pages: BTreeMap::new() };
        Ok(Self { file, written: Mutex::new(written) })
    }

    /// Opens the overlay. A file in an older format is upgraded in memory.
    fn open(self, check: bool) -> Result<Database, UpgradeError> {
        let mut builder = Database::builder();
        let database = builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(check).create_with_backend(self);
        let database = database.map_err(ReadError::from)?;
        format::upgrade(&database)?;
        Ok(database)
    }

    /// A page of the file, with zeros after the visible part.
    fn page(&self, number: u64, shown: u64) -> io::Result<Box<[u8]>> {
        let mut page = vec![0; at(PAGE)].into_boxed_slice();
        let there = shown.saturating_sub(number * PAGE).min(PAGE);
        self.file.read_exact_at(&mut page[..at(there)], number * PAGE)?;
        Ok(page)
    }
}

/// Converts an offset within a page to an index.
fn at(offset: u64) -> usize {
    usize::try_from(offset).expect("an offset within a page fits every integer type")
}

/// Splits a range of bytes of the file into pages. Yields the number of each page, the range within the page, and the
/// range within the bytes.
fn pages_of(offset: u64, len: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        (done < len).then(|| {
            let (number, within) = ((offset + done as u64) / PAGE, at((offset + done as u64) % PAGE));
            let count = (at(PAGE) - within).min(len - done);
            done += count;
            (number, within..within + count, done - count..done)
        })
    })
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.written.lock().unwrap_or_else(PoisonError::into_inner).len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if offset + out.len() as u64 > written.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (number, within, of_out) in pages_of(offset, out.len()) {
            match written.pages.get(&number) {
                Some(page) => out[of_out].copy_from_slice(&page[within]),
                None => out[of_out].copy_from_slice(&self.page(number, written.shown)?[within]),
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if len < written.len {
            written.pages.split_off(&len.div_ceil(PAGE));
            if let Some(last) = written.pages.get_mut(&(len / PAGE)) {
                last[at(len % PAGE)..].fill(0);
            }
        }
        written.shown = written.shown.min(len);
        written.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        for (number, within, of_data) in pages_of(offset, data.len()) {
            let shown = written.shown;
            let page = match written.pages.entry(number) {
                std::collections::btree_map::Entry::Occupied(page) => page.into_mut(),
                std::collections::btree_map::Entry::Vacant(free) => free.insert(self.page(number, shown)?),
            };
            page[within].copy_from_slice(&data[of_data]);
        }
        Ok(())
    }
}
