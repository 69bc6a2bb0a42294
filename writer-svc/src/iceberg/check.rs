//! Whether tables can be written, tried for real: the catalog, and in the
//! warehouse every kind of step that a commit takes.

use std::io::Write;

use proto::v1::Iceberg;
use uuid::Uuid;

use super::catalog::{self, TableName};
use super::storage::Storage;
use crate::Options;
use crate::error::WriterError;

/// Tries, and leaves nothing behind.
pub fn check(iceberg: &Iceberg, options: &Options) -> Result<(), WriterError> {
    let namespace = format!("tidewater_check_{}", Uuid::new_v4().simple());
    let table = TableName { namespace, name: "probe".to_owned() };
    let (catalog, storage) = catalog::open(iceberg, &table, options)?;
    catalog.check()?;
    let probe = |directory: &str| probe(storage.as_ref(), directory);
    if catalog.check_inside(&table, &probe)? {
        return Ok(());
    }
    probe(iceberg.warehouse.trim_end_matches('/'))
}

/// Every kind of step that a commit takes, in a directory. The names are such as
/// lie beside a table's metadata.
fn probe(storage: &dyn Storage, directory: &str) -> Result<(), WriterError> {
    let name = format!("tidewater-check-{}", Uuid::new_v4().simple());
    let names = [format!("{name}-large.avro"), format!("{name}-whole.avro")];
    let [large, whole] = names.each_ref().map(|name| format!("{directory}/{name}"));
    let tried = || {
        storage.write(&whole, b"tidewater")?;
        let mut sink = storage.create(&large)?;
        sink.write_all(b"tidewater").map_err(WriterError::io("writing", &large))?;
        sink.finish()?;
        let found = storage.list(directory)?.objects;
        let read = storage.read(&whole)?;
        if !names.iter().all(|name| found.contains(name)) || read.as_deref() != Some(b"tidewater") {
            return Err(WriterError::BadData(format!(
                "what was written to {directory} cannot be read back"
            )));
        }
        Ok(())
    };
    let outcome = tried();
    let removed = storage.delete(&whole).and(storage.delete(&large));
    outcome.and(removed)
}
