//! A snapshot, and the metadata that makes it the table's current one.
//!
//! A [`Draft`] is derived from one base: ids, sequence number, time and schema
//! all follow from it. It is thrown away when the base is no longer current.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::Utc;
use iceberg::spec::{
    DataContentType, DataFile, FormatVersion, MAIN_BRANCH, Operation, PartitionSpec,
    PartitionSpecRef, Schema, SchemaRef, Snapshot, SortOrder, Summary, TableMetadata,
    TableMetadataBuilder, UnboundPartitionSpec,
};
use uuid::Uuid;

use super::catalog::{Loaded, Next};
use super::lineage::Lineage;
use super::manifest::{Common, Head};
use super::stage::Staged;
use super::{position, prepare, schema};
use crate::error::WriterError;

/// Properties of a table that we create.
const PROPERTIES: [(&str, &str); 2] = [
    ("write.parquet.compression-codec", "zstd"),
    // Else every commit leaves a file for good.
    ("write.metadata.delete-after-commit.enabled", "true"),
];

/// A snapshot being made.
#[derive(Debug)]
pub struct Draft {
    builder: TableMetadataBuilder,
    /// The table's format version.
    pub version: FormatVersion,
    /// Of the snapshot.
    pub snapshot_id: i64,
    parent: Option<i64>,
    sequence_number: i64,
    /// `_row_id` of the first row that the snapshot may add.
    first_row_id: u64,
    timestamp_ms: i64,
    /// The table's, with it.
    pub schema: SchemaRef,
    /// How the table is partitioned from then on.
    pub spec: PartitionSpecRef,
    /// Where its columns come from, if there is news of it.
    origin: Option<(String, String)>,
    /// The table's spec without partitions, where deletes need it.
    pub deletes_spec: Option<PartitionSpecRef>,
    /// Tags of loads that were given up on the base.
    given_up: Vec<String>,
}

/// A snapshot that only has to be swapped in.
#[derive(Debug)]
pub struct Made {
    /// It.
    pub snapshot: Snapshot,
    /// The table with it.
    pub next: Next,
    /// Metadata files that the table no longer remembers.
    pub forgotten: Vec<String>,
}

impl Draft {
    /// A change of `base` by what is staged; without a base, a new table at
    /// `location`, of the format version `new`. `Err` of the inner result: why
    /// base and files do not go together.
    pub fn of(
        base: Option<&Loaded>,
        staged: &Staged,
        location: &str,
        new: FormatVersion,
    ) -> Result<Result<Self, String>, WriterError> {
        let failed = || WriterError::iceberg("deriving a snapshot");
        let now = Utc::now().timestamp_millis();
        let data = staged.data.as_ref().map(|data| &data.common);
        let (mut builder, origin) = match (base, data) {
            (Some(base), Some(data)) => match changed(base, data, &staged.lineage)? {
                Ok(changed) => changed,
                Err(problem) => return Ok(Err(problem)),
            },
            (Some(base), None) => {
                (base.metadata.clone().into_builder(Some(base.location.clone())), None)
            }
            (None, Some(data)) => (
                new_table(&data.schema, &data.spec, location, new).map_err(failed())?,
                staged.lineage.property(None, &data.schema)?,
            ),
            (None, None) => return Ok(Err("it does not exist".into())),
        };
        let is_whole = |spec: &PartitionSpec| spec.fields().is_empty();
        let mut specs = base.into_iter().flat_map(|base| base.metadata.partition_specs_iter());
        let is_there =
            specs.any(|spec| is_whole(spec)) || data.is_some_and(|data| is_whole(&data.spec));
        if staged.deletes.is_some() && !is_there {
            let unpartitioned = UnboundPartitionSpec::builder().build();
            builder = builder.add_partition_spec(unpartitioned).map_err(failed())?;
        }
        // Clocks of several writers differ; a table's time does not go back.
        let timestamp_ms = base.map_or(now, |base| now.max(base.metadata.last_updated_ms() + 1));
        // Only built metadata say which ids they were given.
        let made = match base {
            Some(base) => builder.clone().add_snapshot(timed(&base.metadata, timestamp_ms)),
            None => Ok(builder.clone()),
        };
        let made = made.and_then(|builder| builder.build()).map_err(failed())?.metadata;
        if base.is_none()
            && let Some(data) = data
            && made.current_schema().as_struct() != data.schema.as_struct()
        {
            return Err(WriterError::Internal(format!(
                "the new table at {location} numbers its fields in another way than its files"
            )));
        }
        let whole = made.partition_specs_iter().find(|spec| is_whole(spec));
        let deletes_spec = whole.filter(|_| staged.deletes.is_some()).cloned();
        let before = base.map_or(&made, |base| &base.metadata);
        Ok(Ok(Draft {
            builder,
            version: made.format_version(),
            snapshot_id: new_id(before),
            parent: base.and_then(|base| base.metadata.current_snapshot_id()),
            sequence_number: before.next_sequence_number(),
            first_row_id: before.next_row_id(),
            timestamp_ms,
            schema: Arc::clone(made.current_schema()),
            spec: Arc::clone(made.default_partition_spec()),
            origin,
            deletes_spec,
            given_up: prepare::tagged(before).into_iter().map(prepare::tag).collect(),
        }))
    }

    /// What the files of a manifest of the base have in common, as this snapshot
    /// writes them: under the table's schema, unless that lacks a column which
    /// they are partitioned by.
    pub fn of_now(&self, common: Common) -> Common {
        let known = common.spec.partition_type(&self.schema).is_ok();
        let schema = if known { self.schema.clone() } else { common.schema };
        Common { version: self.version, schema, ..common }
    }

    /// What its manifest list begins with.
    pub fn head(&self) -> Head {
        Head {
            version: self.version,
            snapshot_id: self.snapshot_id,
            parent: self.parent,
            sequence_number: self.sequence_number,
            first_row_id: self.first_row_id,
        }
    }

    /// The snapshot, whose manifest list has given its rows the numbers up to
    /// `next_row_id`.
    pub fn snapshot(
        &self,
        manifest_list: String,
        next_row_id: u64,
        operation: Operation,
        summary: HashMap<String, String>,
    ) -> Snapshot {
        let snapshot = Snapshot::builder()
            .with_snapshot_id(self.snapshot_id)
            .with_parent_snapshot_id(self.parent)
            .with_sequence_number(self.sequence_number)
            .with_timestamp_ms(self.timestamp_ms)
            .with_manifest_list(manifest_list)
            .with_summary(Summary { operation, additional_properties: summary })
            .with_schema_id(self.schema.schema_id());
        match self.version {
            FormatVersion::V3 => {
                snapshot.with_row_range(self.first_row_id, next_row_id - self.first_row_id).build()
            }
            _ => snapshot.build(),
        }
    }

    /// The table with the snapshot on main, with our position, and with the
    /// origin of its columns; `load_id` is what was committed. No load needs to
    /// be marked as given up any more.
    pub fn finish(self, snapshot: Snapshot, load_id: &str) -> Result<Made, WriterError> {
        let mut properties = position::property(&snapshot)?;
        properties.extend(self.origin);
        let tags = self.given_up.iter().fold(self.builder, |builder, tag| builder.remove_ref(tag));
        let made = tags
            .set_branch_snapshot(snapshot.clone(), MAIN_BRANCH)
            .and_then(|builder| builder.set_properties(properties)?.build())
            .map_err(WriterError::iceberg("deriving a table's metadata"))?;
        let forgotten = made.expired_metadata_logs.into_iter().map(|log| log.metadata_file);
        Ok(Made {
            snapshot,
            next: Next {
                metadata: made.metadata,
                changes: made.changes,
                absent: vec![prepare::tag(load_id)],
            },
            forgotten: forgotten.collect(),
        })
    }
}

/// A table about to change, and news of where its columns come from.
type Changed = (TableMetadataBuilder, Option<(String, String)>);

/// The base with the schema and the spec of new data files; else why not.
fn changed(
    base: &Loaded,
    data: &Common,
    lineage: &Lineage,
) -> Result<Result<Changed, String>, WriterError> {
    let failed = || WriterError::iceberg("deriving a snapshot");
    let metadata = &base.metadata;
    let schema = match schema::reconcile(metadata, &data.schema, lineage) {
        Ok(schema) => schema,
        Err(problem) => return Ok(Err(problem)),
    };
    let origin = lineage.property(Some(metadata), &schema)?;
    let mut builder = metadata.clone().into_builder(Some(base.location.clone()));
    if schema.as_struct() != metadata.current_schema().as_struct() {
        builder = builder.add_current_schema(schema).map_err(failed())?;
    }
    if !metadata.default_partition_spec().is_compatible_with(&data.spec) {
        let unbound = unbound(&data.spec).map_err(failed())?;
        builder = builder.add_default_partition_spec(unbound).map_err(failed())?;
    }
    Ok(Ok((builder, origin)))
}

/// A snapshot that is never written: metadata are built only at a time that is
/// not before the base's, which a snapshot gives them.
fn timed(base: &TableMetadata, timestamp_ms: i64) -> Snapshot {
    Snapshot::builder()
        .with_snapshot_id(new_id(base))
        .with_sequence_number(base.next_sequence_number())
        .with_timestamp_ms(timestamp_ms)
        .with_manifest_list(String::new())
        .with_summary(Summary {
            operation: Operation::Append,
            additional_properties: HashMap::new(),
        })
        .with_row_range(base.next_row_id(), 0)
        .build()
}

/// The same fields, for the table to number.
fn unbound(spec: &PartitionSpec) -> iceberg::Result<UnboundPartitionSpec> {
    let mut builder = UnboundPartitionSpec::builder();
    for field in spec.fields() {
        builder = builder.add_partition_field(field.source_id, &field.name, field.transform)?;
    }
    Ok(builder.build())
}

/// A table without a snapshot.
pub fn empty_table(
    schema: &Schema,
    spec: &PartitionSpec,
    location: &str,
    version: FormatVersion,
) -> Result<TableMetadata, WriterError> {
    let made = new_table(schema, spec, location, version).and_then(TableMetadataBuilder::build);
    made.map(|made| made.metadata).map_err(WriterError::iceberg("describing a new table"))
}

fn new_table(
    schema: &Schema,
    spec: &PartitionSpec,
    location: &str,
    version: FormatVersion,
) -> iceberg::Result<TableMetadataBuilder> {
    TableMetadataBuilder::new(
        schema.clone(),
        unbound(spec)?,
        SortOrder::unsorted_order(),
        location.to_owned(),
        version,
        PROPERTIES.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
    )
}

/// A snapshot id that the table does not know.
fn new_id(metadata: &TableMetadata) -> i64 {
    loop {
        let (high, low) = Uuid::new_v4().as_u64_pair();
        let id = ((high ^ low) >> 1).cast_signed();
        if metadata.snapshot_by_id(id).is_none() {
            return id;
        }
    }
}

/// Sums over files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// Data files.
    pub data_files: u64,
    /// Rows in them.
    pub records: u64,
    /// Position and equality delete files.
    pub delete_files: u64,
    /// Rows of position delete files.
    pub position_deletes: u64,
    /// Rows of equality delete files.
    pub equality_deletes: u64,
    /// Of all files.
    pub bytes: u64,
}

impl Tally {
    /// Both together.
    pub fn plus(&self, other: &Tally) -> Tally {
        Tally {
            data_files: self.data_files + other.data_files,
            records: self.records + other.records,
            delete_files: self.delete_files + other.delete_files,
            position_deletes: self.position_deletes + other.position_deletes,
            equality_deletes: self.equality_deletes + other.equality_deletes,
            bytes: self.bytes + other.bytes,
        }
    }

    /// Without the other's files, which are among them.
    pub fn minus(&self, other: &Tally) -> Tally {
        // What other writers say of a table need not add up.
        Tally {
            data_files: self.data_files.saturating_sub(other.data_files),
            records: self.records.saturating_sub(other.records),
            delete_files: self.delete_files.saturating_sub(other.delete_files),
            position_deletes: self.position_deletes.saturating_sub(other.position_deletes),
            equality_deletes: self.equality_deletes.saturating_sub(other.equality_deletes),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }

    /// Counts a file in.
    pub fn add(&mut self, file: &DataFile) {
        self.bytes += file.file_size_in_bytes();
        match file.content_type() {
            DataContentType::Data => {
                self.data_files += 1;
                self.records += file.record_count();
            }
            DataContentType::PositionDeletes => {
                self.delete_files += 1;
                self.position_deletes += file.record_count();
            }
            DataContentType::EqualityDeletes => {
                self.delete_files += 1;
                self.equality_deletes += file.record_count();
            }
        }
    }
}

/// A snapshot's summary, but for its operation: what it adds, what it removes,
/// and what there is then.
pub fn summary(added: &Tally, removed: &Tally, total: &Tally) -> HashMap<String, String> {
    let changes = [
        ("added-data-files", added.data_files),
        ("added-records", added.records),
        ("added-delete-files", added.delete_files),
        ("added-position-deletes", added.position_deletes),
        ("added-equality-deletes", added.equality_deletes),
        ("added-files-size", added.bytes),
        ("deleted-data-files", removed.data_files),
        ("deleted-records", removed.records),
        ("removed-delete-files", removed.delete_files),
        ("removed-position-deletes", removed.position_deletes),
        ("removed-equality-deletes", removed.equality_deletes),
        ("removed-files-size", removed.bytes),
    ];
    let changes = changes.into_iter().filter(|(_, number)| *number > 0);
    let totals = [
        ("total-data-files", total.data_files),
        ("total-records", total.records),
        ("total-delete-files", total.delete_files),
        ("total-position-deletes", total.position_deletes),
        ("total-equality-deletes", total.equality_deletes),
        ("total-files-size", total.bytes),
    ];
    changes.chain(totals).map(|(key, number)| (key.to_owned(), number.to_string())).collect()
}
