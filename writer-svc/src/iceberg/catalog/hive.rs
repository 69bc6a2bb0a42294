//! A Hive metastore (2.3 and newer), its tables as Java's HiveCatalog and PyIceberg
//! have them.
//!
//! ```text
//! load:  get_table ─► metadata_location ─► metadata file
//! swap:  metadata file ─► lock ─► get_table: still at the base? ─► alter_table ─► unlock
//! ```
//!
//! - [`thrift`]: values of the wire
//! - [`client`]: a connection and the calls over it
//! - [`lock`]: the lock of a table, with heartbeats
//! - [`table`]: a table as the metastore describes it
//!
//! A metastore alters whatever it is told to (the condition that newer ones know is
//! silently ignored by older ones), so what keeps two writers apart is the lock: all
//! who write Iceberg tables take it. A new table needs none, there can be only one
//! of a name.

pub mod client;
pub mod lock;
pub mod table;
pub mod thrift;

use std::collections::BTreeMap;
use std::sync::Arc;

use ::thrift::protocol::TType;
use proto::v1;

use self::client::{Address, Connection, Exception, Function, Refused};
use self::lock::{Lock, NoLock};
use self::table::Described;
use self::thrift::{Fields, Value};
use super::{Catalog, Failure, Loaded, Next, Swap, TableName, pointer};
use crate::error::WriterError;
use crate::iceberg::storage::Storage;

use Exception::{Exists, Invalid, Meta, NoSuchObject};

const GET_TABLE: Function = Function("get_table", &[Meta, NoSuchObject]);
const GET_NAMES: Function = Function("get_tables", &[Meta]);
const GET_TABLES: Function = Function("get_table_objects_by_name", &[Meta, Invalid, NoSuchObject]);
const CREATE_TABLE: Function = Function("create_table", &[Exists, Invalid, Meta, NoSuchObject]);
const ALTER_TABLE: Function = Function("alter_table_with_environment_context", &[Invalid, Meta]);
const SET: Function = Function("setMetaConf", &[Meta]);
const DROP_TABLE: Function = Function("drop_table", &[NoSuchObject, Meta]);
const GET_DATABASE: Function = Function("get_database", &[NoSuchObject, Meta]);
const CREATE_DATABASE: Function = Function("create_database", &[Exists, Invalid, Meta]);
const DROP_DATABASE: Function = Function("drop_database", &[NoSuchObject, Invalid, Meta]);

/// Of a connection. Columns are Iceberg's affair: one of another type, or at another
/// place, says nothing of how files are read.
const STRICT_COLUMNS: &str = "hive.metastore.disallow.incompatible.col.type.changes";

/// Tables of an answer.
const PAGE: usize = 100;

/// A metastore's catalog.
#[derive(Debug)]
pub struct HiveCatalog {
    address: Address,
    storage: Arc<dyn Storage>,
}

impl HiveCatalog {
    /// Connects to nothing yet.
    pub fn new(hive: &v1::HiveCatalog, storage: Arc<dyn Storage>) -> Result<Self, WriterError> {
        Ok(HiveCatalog { address: Address::parse(&hive.uri)?, storage })
    }

    fn failed(&self, doing: &str) -> impl FnOnce(Refused) -> WriterError {
        let doing = format!("{doing} in the Hive metastore at {}", self.address);
        move |refused| Failure::from(refused).into_error(doing)
    }

    fn connect(&self, doing: &str) -> Result<Connection, WriterError> {
        self.address.connect().map_err(self.failed(doing))
    }

    /// The table as the metastore describes it.
    fn describe(
        &self,
        connection: &mut Connection,
        table: &TableName,
    ) -> Result<Option<Described>, WriterError> {
        let arguments = [(1, Value::text(&table.namespace)), (2, Value::text(&table.name))];
        match connection.call(GET_TABLE, arguments) {
            Ok(answer) => Described::parse(table, answer).map(Some),
            Err(refused) if refused.exception() == Some(NoSuchObject) => Ok(None),
            Err(refused) => Err(self.failed(&format!("looking for {table}"))(refused)),
        }
    }

    /// Creates a database, at the place that the metastore has for it.
    fn create_database(&self, connection: &mut Connection, name: &str) -> Result<(), Refused> {
        match connection.call(GET_DATABASE, [(1, Value::text(name))]) {
            Err(refused) if refused.exception() == Some(NoSuchObject) => {}
            found => return found.map(drop),
        }
        let parameters = Value::map(BTreeMap::new());
        let database = Value::fields([(1, Value::text(name)), (4, parameters)]);
        match connection.call(CREATE_DATABASE, [(1, database)]) {
            Err(refused) if refused.exception() == Some(Exists) => Ok(()),
            created => created.map(drop),
        }
    }

    fn create(&self, connection: &mut Connection, table: Value) -> Result<(), Refused> {
        connection.call(CREATE_TABLE, [(1, table)]).map(drop)
    }

    fn alter(
        &self,
        connection: &mut Connection,
        name: &TableName,
        table: Value,
    ) -> Result<(), Refused> {
        // It would list all files of the table, and count those that no snapshot has.
        let context = BTreeMap::from([("DO_NOT_UPDATE_STATS".to_owned(), "true".to_owned())]);
        let arguments = [
            (1, Value::text(&name.namespace)),
            (2, Value::text(&name.name)),
            (3, table),
            (4, Value::fields([(1, Value::map(context))])),
        ];
        connection.call(ALTER_TABLE, arguments).map(drop)
    }

    /// Its files are not the metastore's to delete.
    fn delete(&self, connection: &mut Connection, table: &TableName) -> Result<(), Refused> {
        let arguments = [
            (1, Value::text(&table.namespace)),
            (2, Value::text(&table.name)),
            (3, Value::Bool(false)),
        ];
        connection.call(DROP_TABLE, arguments).map(drop)
    }

    fn lock(
        &self,
        connection: &mut Connection,
        table: &TableName,
    ) -> Result<Lock<'_>, WriterError> {
        let doing = format!("taking the lock of {table}");
        match Lock::take(&self.address, connection, table) {
            Ok(lock) => Ok(lock),
            Err(NoLock::Refused(refused)) => Err(self.failed(&doing)(refused)),
            Err(NoLock::Held) => Err(Failure {
                source: "another writer has it and does not give it back".into(),
                undone: true,
                // It was waited for.
                transient: false,
                remedy: "try again when that writer is done (SHOW LOCKS in Hive names it); the \
                         lock of one that was killed ends by itself, in five minutes unless the \
                         metastore is set otherwise",
            }
            .into_error(format!("{doing} in the Hive metastore at {}", self.address))),
        }
    }

    /// Makes `location` that of a table that is there, under its lock.
    fn replace(
        &self,
        table: &TableName,
        base: &Loaded,
        next: &Next,
        location: &str,
    ) -> Result<Made, WriterError> {
        let mut connection = self.connect(&format!("committing to {table}"))?;
        let lock = self.lock(&mut connection, table)?;
        let now = match self.describe(&mut connection, table)? {
            Some(now) if now.location == base.location => now,
            _ => return Ok(Made::Conflict),
        };
        let altered = table::described(table, Some(&now), &next.metadata, location);
        let any_columns = [(1, Value::text(STRICT_COLUMNS)), (2, Value::text("false"))];
        match connection.call(SET, any_columns) {
            Ok(_) => {}
            // It knows no such setting, or keeps it to itself.
            Err(Refused::Thrown(..)) => {}
            Err(refused) => return Err(self.failed(&format!("committing to {table}"))(refused)),
        }
        if !lock.is_held() {
            return Ok(Made::Conflict);
        }
        Ok(match self.alter(&mut connection, table, altered) {
            Ok(()) => Made::Swapped,
            Err(refused) => Made::Refused(refused),
        })
    }

    /// Makes a table, and its database if need be.
    fn make(&self, table: &TableName, next: &Next, location: &str) -> Result<Made, WriterError> {
        let mut connection = self.connect(&format!("creating {table}"))?;
        self.create_database(&mut connection, &table.namespace)
            .map_err(self.failed(&format!("creating the database {}", table.namespace)))?;
        let described = table::described(table, None, &next.metadata, location);
        Ok(match self.create(&mut connection, described) {
            Ok(()) => Made::Swapped,
            Err(refused) if refused.exception() == Some(Exists) => Made::Conflict,
            Err(refused) => Made::Refused(refused),
        })
    }
}

/// What became of the one call that makes a swap.
enum Made {
    Swapped,
    Conflict,
    Refused(Refused),
}

impl Catalog for HiveCatalog {
    /// In a database of its own, which need not be that of the tables.
    fn check(&self) -> Result<(), WriterError> {
        let doing = "trying to create a database";
        let mut connection = self.connect(doing)?;
        let name = format!("tidewater_check_{}", uuid::Uuid::new_v4().simple());
        self.create_database(&mut connection, &name).map_err(self.failed(doing))?;
        let table = TableName { namespace: name.clone(), name: "t".into() };
        let locked = self.lock(&mut connection, &table).map(drop);
        let arguments = [(1, Value::text(&name)), (2, Value::Bool(true)), (3, Value::Bool(false))];
        let removed = self.connect(doing).and_then(|mut connection| {
            let removed = connection.call(DROP_DATABASE, arguments).map(drop);
            removed.map_err(self.failed("removing a database that was tried"))
        });
        locked.and(removed)
    }

    fn load(&self, table: &TableName) -> Result<Option<Loaded>, WriterError> {
        let mut connection = self.connect(&format!("looking for {table}"))?;
        let described = self.describe(&mut connection, table)?;
        let load = |it: Described| pointer::load(self.storage.as_ref(), table, it.location);
        described.map(load).transpose()
    }

    fn list(&self, namespace: &str) -> Result<Vec<TableName>, WriterError> {
        let doing = format!("listing {namespace}");
        let mut connection = self.connect(&doing)?;
        let mut call = |function, arguments| match connection.call(function, arguments) {
            Ok(Some(Value::List(_, items))) => Ok(items),
            Ok(_) => Ok(Vec::new()),
            Err(refused) if refused.exception() == Some(NoSuchObject) => Ok(Vec::new()),
            Err(refused) => Err(self.failed(&doing)(refused)),
        };
        let database = (1, Value::text(namespace));
        let all = call(GET_NAMES, [database.clone(), (2, Value::text("*"))])?;
        let mut names = Vec::new();
        for page in all.chunks(PAGE) {
            let wanted = (2, Value::List(TType::String, page.to_vec()));
            let tables = call(GET_TABLES, [database.clone(), wanted])?;
            let tables = tables.into_iter().filter_map(|table| match table {
                Value::Struct(table) => Some(table),
                _ => None,
            });
            let iceberg = tables.filter(|table: &Fields| table::is_iceberg(table));
            names.extend(iceberg.filter_map(|table| table::name(&table)));
        }
        names.sort();
        let table = |name| TableName { namespace: namespace.to_owned(), name };
        Ok(names.into_iter().map(table).collect())
    }

    fn swap(
        &self,
        table: &TableName,
        base: Option<&Loaded>,
        next: &Next,
    ) -> Result<Swap, WriterError> {
        let storage = self.storage.as_ref();
        let location = pointer::write(storage, base, &next.metadata)?;
        let made = match base {
            Some(base) => self.replace(table, base, next, &location),
            None => self.make(table, next, &location),
        };
        let doing = format!("committing to {table}");
        let failed = self.failed(&doing);
        match made {
            Ok(Made::Swapped) => Ok(Swap::Swapped),
            // The metastore itself repeats what its database has failed at.
            Ok(Made::Conflict) => {
                pointer::forget_unless_made(self, storage, table, &location);
                Ok(Swap::Conflict)
            }
            Ok(Made::Refused(refused)) if refused.undone() => {
                pointer::forget(storage, &location);
                Err(failed(refused))
            }
            Ok(Made::Refused(refused)) => Ok(Swap::Unknown(failed(refused))),
            Err(error) => {
                pointer::forget(storage, &location);
                Err(error)
            }
        }
    }

    fn drop_table(&self, table: &TableName, base: &Loaded) -> Result<bool, WriterError> {
        let doing = format!("dropping {table}");
        let mut connection = self.connect(&doing)?;
        let _lock = self.lock(&mut connection, table)?;
        let now = self.describe(&mut connection, table)?;
        if now.is_none_or(|now| now.location != base.location) {
            return Ok(false);
        }
        match self.delete(&mut connection, table) {
            Ok(()) => Ok(true),
            Err(refused) if refused.exception() == Some(NoSuchObject) => Ok(false),
            Err(refused) if !refused.undone() => {
                let gone = self.describe(&mut self.connect(&doing)?, table)?.is_none();
                if gone { Ok(true) } else { Err(self.failed(&doing)(refused)) }
            }
            Err(refused) => Err(self.failed(&doing)(refused)),
        }
    }
}
