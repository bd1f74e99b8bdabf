//! What the API made, kept in an embedded database: one file, `tessera.redb`, in the folder of `state.directory`.
//!
//! Each change is one transaction, on the disk before anybody is told of it; so a process that is killed at any moment
//! finds everything that it has confirmed, and nothing by halves. Keys are ids, values are messages in protobuf's wire
//! format: fields that come later don't make an old file unreadable.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prost::Message;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use thiserror::Error;

use crate::protocol::generated::google::cloud::aiplatform::v1::Endpoint;
use crate::protocol::generated::google::longrunning::Operation;

use super::state::{Change, ModelRecord};

type Table = TableDefinition<'static, &'static str, &'static [u8]>;

const MODELS: Table = TableDefinition::new("models");
const ENDPOINTS: Table = TableDefinition::new("endpoints");
const OPERATIONS: Table = TableDefinition::new("operations");
const ABOUT: TableDefinition<'static, &'static str, u64> = TableDefinition::new("about");

/// The layout of the tables. A file of a later one is refused.
const LAYOUT: u64 = 1;

/// Why the database can't be used.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The folder can't be made.
    #[error("state.directory {}: {reason}", path.display())]
    Folder {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        reason: std::io::Error,
    },
    /// The file can't be opened.
    #[error("{} can't be opened: {reason}. Another server may be using it: each needs a state.directory of its own", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the database says.
        reason: String,
    },
    /// The file is of a later version of Tessera.
    #[error("{} was written by a later version of Tessera (layout {found}); this one reads layout {LAYOUT}", path.display())]
    Later {
        /// The file.
        path: PathBuf,
        /// Its layout.
        found: u64,
    },
    /// It can't be read or written.
    #[error("the state can't be read or written: {0}")]
    Failed(String),
}

/// All errors of the database but those of opening it, which says more.
fn failed(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Failed(error.into().to_string())
}

/// What a file held.
#[derive(Debug, Default, PartialEq)]
pub struct Contents {
    /// Models by id.
    pub models: BTreeMap<String, ModelRecord>,
    /// Endpoints by id.
    pub endpoints: BTreeMap<String, Endpoint>,
    /// Operations by the last segment of their names.
    pub operations: BTreeMap<String, Operation>,
}

/// An open database.
#[derive(Clone)]
pub struct Store {
    database: Arc<Database>,
}

impl Store {
    /// Opens the database of a folder, or makes both.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let folder = |reason| StoreError::Folder { path: directory.to_owned(), reason };
        std::fs::create_dir_all(directory).map_err(folder)?;
        let path = directory.join("tessera.redb");
        let database = Database::create(&path)
            .map_err(|error| StoreError::Open { path: path.clone(), reason: error.to_string() })?;
        let begun = database.begin_write().map_err(failed)?;
        let found = {
            let mut about = begun.open_table(ABOUT).map_err(failed)?;
            let found = about.get("layout").map_err(failed)?.map(|value| value.value());
            about.insert("layout", found.unwrap_or(LAYOUT)).map_err(failed)?;
            found.unwrap_or(LAYOUT)
        };
        for table in [MODELS, ENDPOINTS, OPERATIONS] {
            begun.open_table(table).map_err(failed)?;
        }
        if found > LAYOUT {
            return Err(StoreError::Later { path, found });
        }
        begun.commit().map_err(failed)?;
        Ok(Self { database: Arc::new(database) })
    }

    /// Everything that is in it.
    pub fn read(&self) -> Result<Contents, StoreError> {
        Ok(Contents {
            models: self.table(MODELS)?,
            endpoints: self.table(ENDPOINTS)?,
            operations: self.table(OPERATIONS)?,
        })
    }

    fn table<M: Message + Default>(&self, table: Table) -> Result<BTreeMap<String, M>, StoreError> {
        let begun = self.database.begin_read().map_err(failed)?;
        let table = begun.open_table(table).map_err(failed)?;
        let mut entries = BTreeMap::new();
        for entry in table.iter().map_err(failed)? {
            let (key, value) = entry.map_err(failed)?;
            let unreadable = |error| StoreError::Failed(format!("{}: {error}", key.value()));
            entries.insert(key.value().to_owned(), M::decode(value.value()).map_err(unreadable)?);
        }
        Ok(entries)
    }

    /// Makes a change, and returns when it is on the disk. Blocks.
    pub fn apply(&self, change: &Change) -> Result<(), StoreError> {
        let begun = self.database.begin_write().map_err(failed)?;
        put(&begun, MODELS, &change.models)?;
        put(&begun, ENDPOINTS, &change.endpoints)?;
        put(&begun, OPERATIONS, &change.operations)?;
        begun.commit().map_err(failed)
    }
}

fn put<M: Message>(begun: &WriteTransaction, table: Table, entries: &[(String, Option<M>)]) -> Result<(), StoreError> {
    let mut table = begun.open_table(table).map_err(failed)?;
    for (key, value) in entries {
        match value {
            Some(message) => table.insert(key.as_str(), message.encode_to_vec().as_slice()).map_err(failed)?,
            None => table.remove(key.as_str()).map_err(failed)?,
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(name: &str) -> Endpoint {
        Endpoint { display_name: name.to_owned(), ..Endpoint::default() }
    }

    #[test]
    fn a_change_is_there_when_the_file_is_opened_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/state");
        let store = Store::open(&path).unwrap();
        assert_eq!(store.read().unwrap(), Contents::default());
        let record = ModelRecord { versions: vec![Default::default()], issued: 3 };
        let change = Change {
            models: vec![("m".to_owned(), Some(record.clone()))],
            endpoints: vec![("a".to_owned(), Some(endpoint("A"))), ("b".to_owned(), Some(endpoint("B")))],
            operations: vec![("o".to_owned(), Some(Operation { done: true, ..Operation::default() }))],
        };
        store.apply(&change).unwrap();
        let gone = Change { endpoints: vec![("a".to_owned(), None)], ..Change::default() };
        store.apply(&gone).unwrap();
        drop(store);
        let contents = Store::open(&path).unwrap().read().unwrap();
        assert_eq!(contents.models, BTreeMap::from([("m".to_owned(), record)]));
        assert_eq!(contents.endpoints, BTreeMap::from([("b".to_owned(), endpoint("B"))]));
        assert!(contents.operations["o"].done);
    }

    #[test]
    fn one_server_a_folder() {
        let directory = tempfile::tempdir().unwrap();
        let _first = Store::open(directory.path()).unwrap();
        let error = Store::open(directory.path()).err().unwrap().to_string();
        assert!(error.contains("Another server"), "{error}");
    }

    #[test]
    fn a_file_of_a_later_version_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let begun = store.database.begin_write().unwrap();
        begun.open_table(ABOUT).unwrap().insert("layout", 2).unwrap();
        begun.commit().unwrap();
        drop(store);
        assert!(matches!(Store::open(directory.path()), Err(StoreError::Later { found: 2, .. })));
    }
}
