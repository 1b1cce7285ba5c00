//! The journal's place on the disk: opening its file, looking at it before it is touched, and putting it aside.
//!
//! Invariant: a file that cannot be used is left as it is, to the byte. Whoever holds the lock of the directory is the only
//! one who opens files in it.

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
use super::store::{Kept, ReadError};
use crate::engine::EngineError;
use crate::topic::Topics;

/// The file in the directory.
const NAME: &str = "oddswire.redb";
/// The file that takes its place, where there was none or a sync of it failed, until it does.
const NEW: &str = "oddswire.redb.new";
/// There while a sync has failed and no new file has taken the place of the one that it was of.
const UNSYNCED: &str = "oddswire.unsynced";
/// Held by who uses the directory.
const LOCK: &str = "oddswire.lock";
/// What the store keeps of the file in memory. All that is read often is in the log.
const CACHE_BYTES: usize = 16 << 20;

/// What the store reads and writes through. Tests put faults in between.
pub(super) type Medium = Arc<dyn Fn(File) -> io::Result<Box<dyn StorageBackend>> + Send + Sync>;

/// The file itself.
pub(super) fn plain() -> Medium {
    Arc::new(|file| {
        let backend = FileBackend::new(file).map_err(io::Error::other)?;
        Ok(Box::new(backend))
    })
}

/// The directory, while it is ours.
pub(super) struct Place {
    path: PathBuf,
    medium: Medium,
    /// Whether a sync has failed: the kernel then takes what it could not write for written, and whatever is added to the
    /// file stands on pages that the disk does not have.
    unsynced: Arc<AtomicBool>,
    /// Locked until it is closed.
    _lock: File,
}

impl Place {
    /// Takes the directory, which is made where it is missing.
    pub(super) fn take(directory: &Path, medium: Medium) -> Result<Self, EngineError> {
        let error = |error: &dyn std::fmt::Display| {
            EngineError(format!("data-dir '{}' cannot be used: {error}", directory.display()))
        };
        fs::create_dir_all(directory).map_err(|cause| error(&cause))?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(directory.join(LOCK));
        let lock = lock.map_err(|cause| error(&cause))?;
        match lock.try_lock() {
            Ok(()) => {
                // The one before may have ended right after its sync failed.
                let unsynced = Arc::new(AtomicBool::new(directory.join(UNSYNCED).exists()));
                Ok(Self { path: directory.join(NAME), medium, unsynced, _lock: lock })
            }
            Err(TryLockError::WouldBlock) => Err(error(&"another oddswire has it; give each a directory of its own")),
            Err(TryLockError::Error(cause)) => Err(error(&cause)),
        }
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Its length in bytes.
    pub(super) fn bytes(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |metadata| metadata.len())
    }

    /// Puts the file aside under a name with the time; returns the name, where there was a file.
    pub(super) fn set_aside(&self, millis: i64) -> Result<Option<PathBuf>, EngineError> {
        let aside = self.path.with_file_name(format!("{NAME}.{millis}"));
        match fs::rename(&self.path, &aside) {
            Ok(()) => Ok(Some(aside)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.unusable(&format!("it cannot be put aside: {error}"))),
        }
    }

    /// Reads all that is kept, and checks every page of it, without a change to the file; `None` where there is nothing yet.
    pub(super) fn read(&self, topics: &Topics) -> Result<Option<Kept>, EngineError> {
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
        let kept = database.and_then(|database| Ok(Kept::read(&database, topics)?));
        kept.map_err(|error: UpgradeError| {
            let way_out = match error {
                UpgradeError::Unusable(ReadError::Newer { .. }) => "start the version that wrote it, or",
                UpgradeError::Unusable(_) | UpgradeError::Unwritten(_) => "restore it from a copy, or",
            };
            self.unusable(&format!(
                "{error}; {way_out} start once with --reset-data, which puts it aside and begins anew"
            ))
        })
    }

    fn unusable(&self, cause: &dyn std::fmt::Display) -> EngineError {
        EngineError(format!("the journal '{}' cannot be used: {cause}", self.path.display()))
    }

    /// Opens the file to look at it: what is written then is not written to it.
    pub(super) fn look(&self) -> Result<Database, String> {
        let overlay = File::open(&self.path).and_then(Overlay::over).map_err(|error| error.to_string())?;
        overlay.open(false).map_err(|error| error.to_string())
    }

    /// Opens the file to write to it.
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

    /// Whether a sync of the file has failed, so that nothing may be added to it.
    pub(super) fn is_unsynced(&self) -> bool {
        self.unsynced.load(Ordering::Relaxed)
    }

    /// An empty file that may take the place of the present one.
    pub(super) fn open_new(&self) -> Result<Database, String> {
        self.open_at(&self.path.with_file_name(NEW), true)
    }

    /// Puts the new file, which is on the disk, in the place of the present one.
    pub(super) fn replace(&self) -> io::Result<()> {
        fs::rename(self.path.with_file_name(NEW), &self.path)?;
        self.settle_name()?;
        self.unsynced.store(false, Ordering::Relaxed);
        match fs::remove_file(self.path.with_file_name(UNSYNCED)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Makes the file's name last as long as what is in it.
    pub(super) fn settle_name(&self) -> io::Result<()> {
        let directory = self.path.parent().map(File::open).transpose()?;
        directory.map_or(Ok(()), |directory| directory.sync_all())
    }
}

/// A backend of any kind whose syncs are watched.
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
            // It is for the next process on this machine; a disk that does not take it either will be tried again by this one.
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

/// A file as it would be with what is written to it, which stays in memory.
#[derive(Debug)]
struct Overlay {
    file: File,
    written: Mutex<Written>,
}

/// What was written over a file.
#[derive(Debug)]
struct Written {
    len: u64,
    /// How much of the file shows: less than it has where it was made shorter.
    shown: u64,
    pages: BTreeMap<u64, Box<[u8]>>,
}

/// The overlay replaces so much at once.
const PAGE: u64 = 4096;

impl Overlay {
    fn over(file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        let written = Written { len, shown: len, pages: BTreeMap::new() };
        Ok(Self { file, written: Mutex::new(written) })
    }

    /// Opens it; an older version is brought up to date in memory, too.
    fn open(self, check: bool) -> Result<Database, UpgradeError> {
        let mut builder = Database::builder();
        let database = builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(check).create_with_backend(self);
        let database = database.map_err(ReadError::from)?;
        format::upgrade(&database)?;
        Ok(database)
    }

    /// The page as it is in the file; zeros behind its end.
    fn page(&self, number: u64, shown: u64) -> io::Result<Box<[u8]>> {
        let mut page = vec![0; at(PAGE)].into_boxed_slice();
        let there = shown.saturating_sub(number * PAGE).min(PAGE);
        self.file.read_exact_at(&mut page[..at(there)], number * PAGE)?;
        Ok(page)
    }
}

/// A place within a page.
fn at(offset: u64) -> usize {
    usize::try_from(offset).expect("it is within a page")
}

/// The pages that a stretch touches: the number of each, where in it the stretch is, and where in the stretch that is.
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
