//! Manifests and manifest lists ↔ bytes. Nothing here reads or writes objects.
//!
//! - [`schema`]: the Avro schema of a manifest's entries
//! - [`entry`]: an entry ↔ its record, [`value`]: its partition values
//! - [`rolling`]: manifests that are closed at about a size, and stored
//!
//! Manifests are ours (deflated; any partition value; row ids inherited), lists
//! are the crate's. It writes Avro to an [`OutputFile`] only; given one in
//! memory, it is an encoder.
//!
//! [`OutputFile`]: iceberg::io::OutputFile

pub mod entry;
pub mod rolling;
mod schema;
mod value;

use bytes::Bytes;
use futures::executor::block_on;
use iceberg::io::FileIO;
use iceberg::spec::{
    DataContentType, DataFile, FormatVersion, Manifest, ManifestContentType, ManifestEntry,
    ManifestFile, ManifestList, ManifestListWriter, ManifestMetadata, ManifestStatus,
    PartitionSpec, SchemaRef, Struct, UNASSIGNED_SEQUENCE_NUMBER,
};

use super::avro;
use crate::error::WriterError;
use entry::{Entry, Shape};
use value::Summaries;

/// The one object of a storage in memory.
const IN_MEMORY: &str = "memory://object";

/// A file that a snapshot holds.
#[derive(Clone, Debug)]
pub struct Live {
    /// It, with its metrics.
    pub file: DataFile,
    /// Which deletes apply to it; see the spec.
    pub sequence_number: i64,
    /// When it was added.
    pub file_sequence_number: i64,
    /// The snapshot that added it.
    pub snapshot_id: i64,
    /// `_row_id` of its first row, in tables that have such.
    pub first_row_id: Option<i64>,
}

/// A manifest and its entry in a manifest list.
#[derive(Debug)]
pub struct Encoded {
    /// The object.
    pub content: Bytes,
    /// Without a sequence number: it inherits that of its snapshot.
    pub entry: ManifestFile,
}

/// What the files of a manifest have in common.
#[derive(Clone, Debug)]
pub struct Common {
    /// The schema they were written under.
    pub schema: SchemaRef,
    /// The spec they are partitioned by.
    pub spec: PartitionSpec,
    /// Data files or delete files.
    pub content: ManifestContentType,
    /// The table's.
    pub version: FormatVersion,
}

/// A manifest being written.
#[derive(Debug)]
pub struct Writer {
    avro: avro::Writer,
    shape: Shape,
    content: ManifestContentType,
    /// Of the snapshot that the manifest is made for, where it is known.
    snapshot_id: Option<i64>,
    summaries: Summaries,
    added: (u32, u64),
    existing: (u32, u64),
    deleted: (u32, u64),
    least_sequence_number: Option<i64>,
    /// The least of all rows, unless files without a number are among them.
    first_row_id: Option<i64>,
    unnumbered: bool,
}

impl Writer {
    /// Of no file yet.
    pub fn new(common: &Common, snapshot_id: Option<i64>) -> Result<Self, WriterError> {
        let failed = || WriterError::iceberg("encoding a manifest");
        let Common { schema, spec, content, version } = common;
        let partition = spec.partition_type(schema).map_err(failed())?;
        let avro_schema = schema::entry_schema(&partition, *version).map_err(encoding)?;
        let json = |value: serde_json::Result<String>| value.map_err(|e| encoding(e.to_string()));
        let (table_schema, fields) =
            (json(serde_json::to_string(schema))?, json(serde_json::to_string(spec.fields()))?);
        let schema_id = schema.schema_id().to_string();
        let (spec_id, version_text) = (spec.spec_id().to_string(), (*version as u8).to_string());
        let metadata = [
            ("schema", table_schema.as_str()),
            ("schema-id", &schema_id),
            ("partition-spec", &fields),
            ("partition-spec-id", &spec_id),
            ("format-version", &version_text),
            ("content", &content.to_string()),
        ];
        Ok(Writer {
            avro: avro::Writer::new(&avro_schema, metadata),
            summaries: Summaries::new(&partition),
            shape: Shape {
                schema: schema.clone(),
                partition,
                spec_id: spec.spec_id(),
                version: *version,
            },
            content: *content,
            snapshot_id,
            added: (0, 0),
            existing: (0, 0),
            deleted: (0, 0),
            least_sequence_number: None,
            first_row_id: None,
            unnumbered: false,
        })
    }

    /// Takes a file that the manifest's snapshot adds, whichever that will be.
    pub fn add(&mut self, file: &DataFile) -> Result<(), WriterError> {
        self.add_in(file, file.partition())
    }

    /// The same of a file whose partition was not known when it was described.
    pub fn add_in(&mut self, file: &DataFile, partition: &Struct) -> Result<(), WriterError> {
        count(&mut self.added, file);
        // No sequence number: that of the snapshot, inherited.
        self.push(Entry {
            partition,
            status: ManifestStatus::Added,
            snapshot_id: self.snapshot_id,
            sequence_number: None,
            file_sequence_number: None,
            first_row_id: None,
            file,
        })
    }

    /// Takes a file that was there before and stays.
    pub fn keep(&mut self, live: &Live) -> Result<(), WriterError> {
        count(&mut self.existing, &live.file);
        let least = self.least_sequence_number.get_or_insert(live.sequence_number);
        *least = live.sequence_number.min(*least);
        match (live.first_row_id, self.first_row_id) {
            (Some(id), least) => self.first_row_id = Some(least.map_or(id, |least| id.min(least))),
            (None, _) => self.unnumbered = true,
        }
        self.push(live.entry(ManifestStatus::Existing, live.snapshot_id))
    }

    /// Takes a file that the manifest's snapshot, which must be known, removes.
    pub fn delete(&mut self, live: &Live) -> Result<(), WriterError> {
        count(&mut self.deleted, &live.file);
        let snapshot_id = self.snapshot_id.unwrap_or(live.snapshot_id);
        self.push(live.entry(ManifestStatus::Deleted, snapshot_id))
    }

    fn push(&mut self, entry: Entry) -> Result<(), WriterError> {
        let is_data = entry.file.content_type() == DataContentType::Data;
        if is_data != (self.content == ManifestContentType::Data) {
            return Err(encoding(format!("{} is of another kind", entry.file.file_path())));
        }
        self.summaries.add(&self.shape.partition, entry.partition).map_err(encoding)?;
        let mut written = Ok(());
        self.avro.record(|encoder| written = entry::encode(encoder, &self.shape, entry));
        written.map_err(encoding)
    }

    /// Bytes so far, about.
    pub fn size(&self) -> usize {
        self.avro.size()
    }

    /// The manifest. Its place is not known yet.
    pub fn finish(self) -> Result<Encoded, WriterError> {
        let content = self.avro.finish();
        let known = !self.unnumbered && self.content == ManifestContentType::Data;
        let entry = ManifestFile {
            manifest_path: String::new(),
            manifest_length: content.len() as i64,
            partition_spec_id: self.shape.spec_id,
            content: self.content,
            sequence_number: UNASSIGNED_SEQUENCE_NUMBER,
            min_sequence_number: self.least_sequence_number.unwrap_or(UNASSIGNED_SEQUENCE_NUMBER),
            added_snapshot_id: self.snapshot_id.unwrap_or(-1),
            added_files_count: Some(self.added.0),
            existing_files_count: Some(self.existing.0),
            deleted_files_count: Some(self.deleted.0),
            added_rows_count: Some(self.added.1),
            existing_rows_count: Some(self.existing.1),
            deleted_rows_count: Some(self.deleted.1),
            partitions: Some(self.summaries.finish(&self.shape.partition).map_err(encoding)?),
            key_metadata: None,
            first_row_id: self.first_row_id.filter(|_| known).and_then(|id| id.try_into().ok()),
        };
        Ok(Encoded { content: content.into(), entry })
    }
}

fn count(of: &mut (u32, u64), file: &DataFile) {
    of.0 += 1;
    of.1 += file.record_count();
}

fn encoding(problem: String) -> WriterError {
    WriterError::Internal(format!("encoding a manifest: {problem}"))
}

impl Live {
    fn entry(&self, status: ManifestStatus, snapshot_id: i64) -> Entry<'_> {
        Entry {
            status,
            snapshot_id: Some(snapshot_id),
            sequence_number: Some(self.sequence_number),
            file_sequence_number: Some(self.file_sequence_number),
            first_row_id: self.first_row_id,
            partition: self.file.partition(),
            file: &self.file,
        }
    }
}

/// The entries of a manifest, one after the other, in bounded memory.
#[derive(Debug)]
pub struct Entries<'a> {
    /// What they have in common.
    pub metadata: ManifestMetadata,
    location: &'a str,
    shape: Shape,
    records: avro::Reader<'a>,
}

impl<'a> Entries<'a> {
    /// Reads the head of a manifest.
    pub fn of(location: &'a str, content: &'a [u8]) -> Result<Self, WriterError> {
        let bad = |problem: String| bad(location, &problem);
        let records = avro::Reader::new(content).map_err(bad)?;
        let metadata = ManifestMetadata::parse(&records.metadata)
            .map_err(WriterError::iceberg(format!("reading the manifest {location}")))?;
        let shape = Shape::of(&metadata).map_err(bad)?;
        Ok(Entries { metadata, location, shape, records })
    }
}

fn bad(location: &str, problem: &str) -> WriterError {
    WriterError::BadData(format!("the manifest {location} cannot be read: {problem}"))
}

impl Iterator for Entries<'_> {
    type Item = Result<ManifestEntry, WriterError>;

    fn next(&mut self) -> Option<Self::Item> {
        let record = self.records.next()?;
        let entry = record.and_then(|record| entry::decode(&self.shape, record));
        Some(entry.map_err(|problem| bad(self.location, &problem)))
    }
}

/// Reads a manifest.
pub fn decode(location: &str, content: &[u8]) -> Result<Manifest, WriterError> {
    let mut entries = Entries::of(location, content)?;
    let read = entries.by_ref().collect::<Result<_, _>>()?;
    Ok(Manifest::new(entries.metadata, read))
}

/// The files that a manifest holds, with what they inherit from its entry in
/// the list.
#[derive(Debug)]
pub struct Lives<'a> {
    entries: Entries<'a>,
    listed: &'a ManifestFile,
    next_row_id: Option<i64>,
}

impl<'a> Lives<'a> {
    /// Reads the head of a manifest.
    pub fn of(listed: &'a ManifestFile, content: &'a [u8]) -> Result<Self, WriterError> {
        let entries = Entries::of(&listed.manifest_path, content)?;
        let next_row_id = listed.first_row_id.and_then(|id| id.try_into().ok());
        Ok(Lives { entries, listed, next_row_id })
    }

    /// What the files have in common.
    pub fn common(&self) -> Common {
        let metadata = &self.entries.metadata;
        Common {
            schema: metadata.schema().clone(),
            spec: metadata.partition_spec().clone().with_spec_id(self.listed.partition_spec_id),
            content: self.listed.content,
            version: *metadata.format_version(),
        }
    }

    fn live(&mut self, entry: ManifestEntry) -> Result<Live, WriterError> {
        // Only what was added inherits; what exists says its own.
        let inherited =
            (entry.status == ManifestStatus::Added).then_some(self.listed.sequence_number);
        let number = |own: Option<i64>| {
            own.or(inherited).ok_or_else(|| {
                bad(&self.listed.manifest_path, "an existing file has no sequence number")
            })
        };
        let (sequence_number, file_sequence_number) =
            (number(entry.sequence_number)?, number(entry.file_sequence_number)?);
        let mut first_row_id = entry.data_file.first_row_id();
        if first_row_id.is_none() && self.listed.content == ManifestContentType::Data {
            first_row_id = self.next_row_id;
            let rows = entry.data_file.record_count().cast_signed();
            self.next_row_id = self.next_row_id.and_then(|id| id.checked_add(rows));
        }
        Ok(Live {
            sequence_number,
            file_sequence_number,
            snapshot_id: entry.snapshot_id.unwrap_or(self.listed.added_snapshot_id),
            first_row_id,
            file: entry.data_file,
        })
    }
}

impl Iterator for Lives<'_> {
    type Item = Result<Live, WriterError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.entries.next()? {
                Ok(entry) if entry.is_alive() => return Some(self.live(entry)),
                Ok(_) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// Whether a manifest may hold files, and not only say what was removed.
pub fn may_be_live(entry: &ManifestFile) -> bool {
    entry.has_added_files() || entry.has_existing_files()
}

/// What a snapshot's manifest list says of the snapshot.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// The table's.
    pub version: FormatVersion,
    /// Its id.
    pub snapshot_id: i64,
    /// That of the one before.
    pub parent: Option<i64>,
    /// Inherited by what it adds.
    pub sequence_number: i64,
    /// `_row_id` of the first row that it may add.
    pub first_row_id: u64,
}

/// A snapshot's manifest list, and the `_row_id` after the last that it gives.
pub fn list(head: &Head, manifests: Vec<ManifestFile>) -> Result<(Bytes, u64), WriterError> {
    let io = FileIO::new_with_memory();
    let Head { version, snapshot_id, parent, sequence_number, first_row_id } = *head;
    let encoded = || {
        let writer = block_on(io.new_output(IN_MEMORY)?.writer())?;
        let mut list = match version {
            FormatVersion::V3 => {
                let first = Some(first_row_id);
                ManifestListWriter::v3(writer, snapshot_id, parent, sequence_number, first)
            }
            _ => ManifestListWriter::v2(writer, snapshot_id, parent, sequence_number),
        };
        list.add_manifests(manifests.into_iter())?;
        let next_row_id = list.next_row_id().unwrap_or(first_row_id);
        block_on(list.close())?;
        Ok((block_on(io.new_input(IN_MEMORY)?.read())?, next_row_id))
    };
    encoded().map_err(WriterError::iceberg("encoding a manifest list"))
}

/// Reads a manifest list.
pub fn decode_list(
    location: &str,
    content: &[u8],
    version: FormatVersion,
) -> Result<Vec<ManifestFile>, WriterError> {
    let list = ManifestList::parse_with_version(content, version)
        .map_err(WriterError::iceberg(format!("reading the manifest list {location}")))?;
    Ok(list.consume_entries().into_iter().collect())
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
