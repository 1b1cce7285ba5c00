//! The version of what stands in the file, and how a file of an older version is brought up to date.
//!
//! Whatever changes what the tables of `store` mean adds a step to [`STEPS`], and nothing else knows that there was an older
//! version. A file of a newer one is refused.
//!
//! Invariant: all steps that a file needs are one transaction, so it is of the version that it was or of the present one.

use redb::{Database, ReadableDatabase as _, TableError, WriteTransaction};

use super::store::{FORMAT, META, ReadError, WriteError, meta};

/// Makes a file of one version a file of the next.
type Step = fn(&WriteTransaction) -> Result<(), WriteError>;

/// The first makes version 2 of version 1, and so on. There has been one version.
const STEPS: &[Step] = &[];

const _: () = assert!(version_after(STEPS) == FORMAT, "the last step makes what `store` reads and writes");

const fn version_after(steps: &[Step]) -> u64 {
    1 + steps.len() as u64
}

/// Why a file cannot be brought up to date.
#[derive(Debug, thiserror::Error)]
pub(super) enum UpgradeError {
    /// It is none that can be.
    #[error(transparent)]
    Unusable(#[from] ReadError),
    /// The steps could not be written down.
    #[error("{0}")]
    Unwritten(#[from] WriteError),
}

/// Brings a file up to date. One that is, or that is new, is not written to.
pub(super) fn upgrade(database: &Database) -> Result<(), UpgradeError> {
    upgrade_by(STEPS, database)
}

fn upgrade_by(steps: &[Step], database: &Database) -> Result<(), UpgradeError> {
    let Some(version) = version(database)? else { return Ok(()) };
    let present = version_after(steps);
    if version > present {
        return Err(ReadError::Newer { version, present }.into());
    }
    if version == present {
        return Ok(());
    }
    let missing = steps.iter().zip(1..).filter(|(_, from)| *from >= version).map(|(step, _)| step);
    let transaction = database.begin_write().map_err(WriteError::from)?;
    for step in missing {
        step(&transaction)?;
    }
    store_version(&transaction, present)?;
    transaction.commit().map_err(WriteError::from)?;
    Ok(())
}

/// The version of the file; `None` where it is new.
fn version(database: &Database) -> Result<Option<u64>, ReadError> {
    let read = database.begin_read()?;
    if read.list_tables()?.next().is_none() {
        return Ok(None);
    }
    let meta = match read.open_table(META) {
        Ok(meta) => meta,
        Err(TableError::Storage(error)) => return Err(error.into()),
        Err(_) => return Err(ReadError::Foreign),
    };
    match meta.get(meta::FORMAT)?.map(|version| version.value()) {
        None | Some(0) => Err(ReadError::Foreign),
        version => Ok(version),
    }
}

fn store_version(transaction: &WriteTransaction, version: u64) -> Result<(), WriteError> {
    transaction.open_table(META)?.insert(meta::FORMAT, version)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use redb::backends::InMemoryBackend;
    use redb::{ReadableTable as _, TableDefinition};

    use super::*;

    /// What the steps below change, as a version of long ago had it and as the present one has it.
    const OLD: TableDefinition<'_, u64, u64> = TableDefinition::new("old");
    const NEW: TableDefinition<'_, &str, u64> = TableDefinition::new("new");

    fn of_version(version: u64) -> Database {
        let database = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let transaction = database.begin_write().unwrap();
        store_version(&transaction, version).unwrap();
        transaction.open_table(OLD).unwrap().insert(7, 1).unwrap();
        transaction.commit().unwrap();
        database
    }

    fn double(transaction: &WriteTransaction) -> Result<(), WriteError> {
        let mut old = transaction.open_table(OLD)?;
        let number = old.get(7)?.map_or(0, |number| number.value());
        old.insert(7, number * 2)?;
        Ok(())
    }

    fn name(transaction: &WriteTransaction) -> Result<(), WriteError> {
        let number = transaction.open_table(OLD)?.get(7)?.map_or(0, |number| number.value());
        transaction.open_table(NEW)?.insert("seven", number)?;
        transaction.delete_table(OLD)?;
        Ok(())
    }

    fn fail(_: &WriteTransaction) -> Result<(), WriteError> {
        Err(WriteError("the disk is full".to_owned()))
    }

    fn old(database: &Database) -> Option<u64> {
        database.begin_read().unwrap().open_table(OLD).ok()?.get(7).unwrap().map(|number| number.value())
    }

    #[test]
    fn a_file_of_an_older_version_goes_through_each_step_that_it_has_not_been_through() {
        let steps: [Step; 3] = [double, double, name];
        for (from, number) in [(1, 4), (2, 2), (3, 1)] {
            let database = of_version(from);
            upgrade_by(&steps, &database).unwrap();
            assert_eq!(version(&database).unwrap(), Some(4));
            let new = database.begin_read().unwrap().open_table(NEW).unwrap();
            assert_eq!((new.get("seven").unwrap().unwrap().value(), old(&database)), (number, None));
            upgrade_by(&steps, &database).unwrap();
            assert_eq!(version(&database).unwrap(), Some(4), "it is up to date");
        }
    }

    #[test]
    fn a_step_that_fails_leaves_the_file_of_the_version_that_it_was() {
        let database = of_version(1);
        let error = upgrade_by(&[double, fail], &database).unwrap_err();
        assert_eq!(error.to_string(), "the disk is full");
        assert_eq!((version(&database).unwrap(), old(&database)), (Some(1), Some(1)));
        upgrade_by(&[double, name], &database).unwrap();
        assert_eq!(version(&database).unwrap(), Some(3));
    }

    #[test]
    fn a_newer_version_is_refused_with_both_numbers_and_a_new_file_is_left_alone() {
        let error = upgrade_by(&[double], &of_version(3)).unwrap_err();
        assert_eq!(error.to_string(), "it has format 3, and this version of oddswire knows formats up to 2");
        let new = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        upgrade_by(&[fail], &new).unwrap();
        assert_eq!(version(&new).unwrap(), None);
    }
}
