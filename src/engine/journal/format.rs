//! The version of the file's format, and upgrades from older versions.
//!
//! To change the meaning of the tables in `store`, add a step to [`STEPS`]. No other code knows older versions. A file
//! with a newer version is refused.
//!
//! Invariant: one transaction runs all steps that a file needs. So the file always has its old version or the present
//! one.

use redb::{Database, ReadableDatabase as _, TableError, WriteTransaction};

use super::store::{FORMAT, META, ReadError, WriteError, meta};

/// Upgrades a file from one version to the next.
type UpgradeStep = fn(&WriteTransaction) -> Result<(), WriteError>;

/// The first step makes version 2 from version 1, and so on. The list is empty because there has been only one version.
const STEPS: &[UpgradeStep] = &[];

const _: () = assert!(version_after(STEPS) == FORMAT, "the last step must produce the version of `store`");

const fn version_after(steps: &[UpgradeStep]) -> u64 {
    1 + steps.len() as u64
}

/// Why a file cannot be upgraded.
#[derive(Debug, thiserror::Error)]
pub(super) enum UpgradeError {
    /// The file cannot be read: another program wrote it, it is damaged, or it has a newer version.
    #[error(transparent)]
    Unusable(#[from] ReadError),
    /// The upgrade could not be written.
    #[error("{0}")]
    Unwritten(#[from] WriteError),
}

/// Upgrades a file to the present version. A file of the present version and a new file stay unchanged.
pub(super) fn upgrade(database: &Database) -> Result<(), UpgradeError> {
    upgrade_by(STEPS, database)
}

fn upgrade_by(steps: &[UpgradeStep], database: &Database) -> Result<(), UpgradeError> {
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

/// The version of the file. `None` if the file is new.
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

    /// The table that the steps below change, in its old and its new form.
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
    fn older_file_goes_through_each_missing_step() {
        let steps: [UpgradeStep; 3] = [double, double, name];
        for (from, number) in [(1, 4), (2, 2), (3, 1)] {
            let database = of_version(from);
            upgrade_by(&steps, &database).unwrap();
            assert_eq!(version(&database).unwrap(), Some(4));
            let new = database.begin_read().unwrap().open_table(NEW).unwrap();
            assert_eq!((new.get("seven").unwrap().unwrap().value(), old(&database)), (number, None));
            upgrade_by(&steps, &database).unwrap();
            assert_eq!(version(&database).unwrap(), Some(4), "a second upgrade changes nothing");
        }
    }

    #[test]
    fn failed_step_leaves_contents_and_version_unchanged() {
        let database = of_version(1);
        let error = upgrade_by(&[double, fail], &database).unwrap_err();
        assert_eq!(error.to_string(), "the disk is full");
        assert_eq!((version(&database).unwrap(), old(&database)), (Some(1), Some(1)));
        upgrade_by(&[double, name], &database).unwrap();
        assert_eq!(version(&database).unwrap(), Some(3));
    }

    #[test]
    fn newer_version_is_refused_and_new_file_stays_unchanged() {
        let error = upgrade_by(&[double], &of_version(3)).unwrap_err();
        assert_eq!(error.to_string(), "it has format 3, but this version of oddswire reads formats up to 2");
        let new = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        upgrade_by(&[fail], &new).unwrap();
        assert_eq!(version(&new).unwrap(), None);
    }
}
