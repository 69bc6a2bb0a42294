//! Position deletes: which rows of which data files are gone.
//!
//! A delete file is of one data file, and lies in the partition of that one,
//! which the commit finds out: who stages deletes need not know it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch, UInt32Array};
use arrow::datatypes::{DataType, Field, Int64Type, Schema as ArrowSchema};
use iceberg::spec::{
    DataFile, FormatVersion, ManifestContentType, ManifestFile, NestedField, PartitionSpecRef,
    PrimitiveType, Schema, Struct, TableMetadata, Type,
};
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;

use super::commit::remains::Attempt;
use super::lineage::Lineage;
use super::manifest::entry::{DELETE_FILE_PATH, DELETE_POSITION};
use super::manifest::rolling::{Rolling, Shelf};
use super::manifest::{self, Common, Lives};
use super::schema::Plan;
use crate::error::WriterError;
use crate::partition::Split;
use crate::partition::groups::Groups;

/// The columns of position deletes, as they are sent and as files have them.
pub fn columns() -> ArrowSchema {
    ArrowSchema::new(vec![
        Field::new("file_path", DataType::Utf8, false),
        Field::new("pos", DataType::Int64, false),
    ])
}

/// The same with their field ids, which are not the table's.
pub fn plan(table: &str, metadata: Option<&TableMetadata>) -> Result<Plan, WriterError> {
    let refuse = |problem: &str, remedy: &str| {
        let problem = format!("no rows can be deleted by place from {table}: {problem}");
        Err(WriterError::invalid_table(problem, remedy))
    };
    match metadata.map(TableMetadata::format_version) {
        None => return refuse("it does not exist", "load it first"),
        Some(FormatVersion::V3) => {
            return refuse("it has format version 3", "stage equality deletes");
        }
        Some(_) => {}
    }
    let ids = [DELETE_FILE_PATH, DELETE_POSITION];
    let types = [PrimitiveType::String, PrimitiveType::Long];
    let columns = columns();
    let named = columns.fields().iter().zip(ids);
    let fields = named.clone().zip(types).map(|((field, id), kind)| {
        Arc::new(NestedField::required(id, field.name(), Type::Primitive(kind)))
    });
    let schema = Schema::builder()
        .with_fields(fields)
        .build()
        .map_err(WriterError::iceberg("making the schema of position deletes"))?;
    let arrow = named.map(|(field, id)| {
        let id = [(PARQUET_FIELD_ID_META_KEY.to_owned(), id.to_string())];
        field.as_ref().clone().with_metadata(id.into())
    });
    Ok(Plan {
        table: schema,
        arrow: Arc::new(ArrowSchema::new(arrow.collect::<Vec<_>>())),
        lineage: Lineage::default(),
    })
}

/// A file of deletes for each data file; their names are the data files'.
#[derive(Debug)]
pub struct ByFile;

impl Split for ByFile {
    fn split(
        &self,
        _source: &RecordBatch,
        laid_out: &RecordBatch,
    ) -> Result<Vec<(String, UInt32Array)>, WriterError> {
        let paths = laid_out.column(0).as_string::<i32>();
        let mut groups = Groups::with_capacity(laid_out.num_rows());
        for path in paths.iter().flatten() {
            groups.push(path.as_bytes(), || Ok::<_, WriterError>(path.to_owned()))?;
        }
        Ok(groups.collect())
    }
}

/// The places of one data file's rows so far, which readers expect to ascend.
#[derive(Debug)]
pub struct Ascending {
    last: i64,
    holds: bool,
}

impl Default for Ascending {
    fn default() -> Self {
        Ascending { last: -1, holds: true }
    }
}

impl Ascending {
    /// Takes the next batch.
    pub fn add(&mut self, batch: &RecordBatch) {
        for position in batch.column(1).as_primitive::<Int64Type>().values() {
            self.holds &= *position > self.last;
            self.last = *position;
        }
    }

    /// Refuses those of `path` if they did not.
    pub fn check(&self, path: &str) -> Result<(), WriterError> {
        if self.holds {
            return Ok(());
        }
        Err(WriterError::InvalidRequest(format!(
            "the positions of deleted rows of {path} do not ascend, or one is there twice"
        )))
    }
}

/// Delete files, each with its partition by this spec.
type Placed<'a> = (PartitionSpecRef, Vec<(&'a DataFile, Struct)>);

/// Manifests of the delete files, each in the place of the data file that it
/// refers to, which must be the table's or come with it.
pub fn place(attempt: &Attempt, shelf: &mut Shelf) -> Result<Vec<ManifestFile>, WriterError> {
    let Some(deletes) = &attempt.staged.positions else { return Ok(Vec::new()) };
    if attempt.draft.version >= FormatVersion::V3 {
        return Err(attempt.staged.outdated(attempt.table, "it has format version 3 now"));
    }
    let mut missing: HashMap<String, Vec<&DataFile>> = HashMap::new();
    for file in &deletes.files {
        let referenced = file.referenced_data_file().unwrap_or_default();
        missing.entry(referenced).or_default().push(file);
    }
    let mut placed: BTreeMap<i32, Placed> = BTreeMap::new();
    let mut found = |data: &DataFile, spec: PartitionSpecRef| {
        let Some(files) = missing.remove(data.file_path()) else { return };
        let (_, placed) = placed.entry(spec.spec_id()).or_insert((spec, Vec::new()));
        placed.extend(files.into_iter().map(|file| (file, data.partition().clone())));
    };
    for data in attempt.staged.data.iter().flat_map(|data| &data.files) {
        found(data, attempt.draft.spec.clone());
    }
    if let Some(base) = attempt.base {
        for listed in attempt.table.manifests(base)? {
            if listed.content != ManifestContentType::Data || !manifest::may_be_live(&listed) {
                continue;
            }
            let content = attempt.table.object(&listed.manifest_path)?;
            let spec = base.metadata.partition_spec_by_id(listed.partition_spec_id);
            for live in Lives::of(&listed, &content)? {
                if let Some(spec) = spec {
                    found(&live?.file, spec.clone());
                }
            }
        }
    }
    if let Some(path) = missing.keys().min() {
        let problem = format!("it holds no data file {path:?}, rows of which are deleted");
        return Err(attempt.staged.outdated(attempt.table, &problem));
    }
    let mut manifests = Vec::new();
    for (spec, files) in placed.into_values() {
        let common = Common {
            schema: attempt.draft.schema.clone(),
            spec: spec.as_ref().clone(),
            content: ManifestContentType::Deletes,
            version: attempt.draft.version,
        };
        let snapshot_id = Some(attempt.draft.snapshot_id);
        let mut rolling = Rolling::new(common, snapshot_id, attempt.properties.manifest_bytes);
        for (file, partition) in files {
            rolling.push(shelf, &partition, |manifest| manifest.add_in(file, &partition))?;
        }
        manifests.extend(rolling.finish(shelf)?);
    }
    Ok(manifests)
}
