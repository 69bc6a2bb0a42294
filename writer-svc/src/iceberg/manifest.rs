//! Manifests and manifest lists ↔ bytes. Nothing here reads or writes objects.
//!
//! The crate writes Avro to an [`OutputFile`] only; given one in memory, it is
//! an encoder.
//!
//! [`OutputFile`]: iceberg::io::OutputFile

use bytes::Bytes;
use futures::executor::block_on;
use iceberg::io::FileIO;
use iceberg::spec::{
    DataFile, FormatVersion, Manifest, ManifestContentType, ManifestFile, ManifestList,
    ManifestListWriter, ManifestStatus, ManifestWriter, ManifestWriterBuilder, PartitionSpec,
    SchemaRef, Snapshot,
};

use crate::error::WriterError;

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
}

impl Common {
    fn writer(&self, io: &FileIO, snapshot_id: Option<i64>) -> iceberg::Result<ManifestWriter> {
        let output = io.new_output(IN_MEMORY)?;
        let schema = self.schema.clone();
        let builder = ManifestWriterBuilder::new(output, snapshot_id, schema, self.spec.clone());
        Ok(match self.content {
            ManifestContentType::Data => builder.build_v2_data(),
            ManifestContentType::Deletes => builder.build_v2_deletes(),
        })
    }
}

/// A manifest of files that its snapshot adds, whichever that will be.
pub fn added(common: &Common, files: Vec<DataFile>) -> Result<Encoded, WriterError> {
    encode(common, None, |writer| {
        // No sequence number: that of the snapshot, inherited.
        files.into_iter().try_for_each(|file| writer.add_file(file, -1))
    })
}

/// A manifest of files that `snapshot_id` removes.
pub fn deleted(
    common: &Common,
    snapshot_id: i64,
    files: Vec<Live>,
) -> Result<Encoded, WriterError> {
    encode(common, Some(snapshot_id), |writer| {
        files.into_iter().try_for_each(|live| {
            let file_sequence_number = Some(live.file_sequence_number);
            writer.add_delete_file(live.file, live.sequence_number, file_sequence_number)
        })
    })
}

fn encode(
    common: &Common,
    snapshot_id: Option<i64>,
    fill: impl FnOnce(&mut ManifestWriter) -> iceberg::Result<()>,
) -> Result<Encoded, WriterError> {
    let io = FileIO::new_with_memory();
    let encoded = || {
        let mut writer = common.writer(&io, snapshot_id)?;
        fill(&mut writer)?;
        let entry = block_on(writer.write_manifest_file())?;
        let content = block_on(io.new_input(IN_MEMORY)?.read())?;
        Ok(Encoded { content, entry })
    };
    encoded().map_err(WriterError::iceberg("encoding a manifest"))
}

/// Reads a manifest.
pub fn decode(location: &str, content: &[u8]) -> Result<Manifest, WriterError> {
    Manifest::parse_avro(content)
        .map_err(WriterError::iceberg(format!("reading the manifest {location}")))
}

/// The files that a manifest holds, with what they inherit from its entry in
/// the list.
pub fn live(manifest: &Manifest, entry: &ManifestFile) -> Result<Vec<Live>, WriterError> {
    let alive = manifest.entries().iter().filter(|entry| entry.is_alive());
    alive
        .map(|file| {
            // Only what was added inherits; what exists says its own.
            let inherited =
                (file.status() == ManifestStatus::Added).then_some(entry.sequence_number);
            let number = |own: Option<i64>| {
                own.or(inherited).ok_or_else(|| {
                    WriterError::BadData(format!(
                        "the manifest {} has an existing file without a sequence number",
                        entry.manifest_path
                    ))
                })
            };
            Ok(Live {
                sequence_number: number(file.sequence_number)?,
                file_sequence_number: number(file.file_sequence_number)?,
                file: file.data_file().clone(),
            })
        })
        .collect()
}

/// Whether a manifest may hold files, and not only say what was removed.
pub fn may_be_live(entry: &ManifestFile) -> bool {
    entry.has_added_files() || entry.has_existing_files()
}

/// A snapshot's manifest list.
pub fn list(snapshot: &Snapshot, manifests: Vec<ManifestFile>) -> Result<Bytes, WriterError> {
    let io = FileIO::new_with_memory();
    let encoded = || {
        let writer = block_on(io.new_output(IN_MEMORY)?.writer())?;
        let mut list = ManifestListWriter::v2(
            writer,
            snapshot.snapshot_id(),
            snapshot.parent_snapshot_id(),
            snapshot.sequence_number(),
        );
        list.add_manifests(manifests.into_iter())?;
        block_on(list.close())?;
        block_on(io.new_input(IN_MEMORY)?.read())
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
