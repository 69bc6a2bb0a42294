//! The data files of a chunk and its manifest.
//!
//! ```text
//! <data>/load-<load id>/<chunk>-<n>-<uuid>.parquet      under their final names
//! <metadata>/staged-<load id>-<chunk>-<uuid>.avro       last: the chunk is whole
//! ```
//!
//! The manifest is one of Iceberg's, with every file's metrics and the schema
//! that the files were written under, which notes its lineage; no snapshot ever
//! refers to it, the commit makes its own of all chunks' files. Invariant: who removes staged
//! files removes the manifest first.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema as ArrowSchema;
use iceberg::spec::{
    DataFile, ManifestContentType, PartitionSpec, SchemaRef, Struct, TableMetadata,
};
use parquet::file::metadata::ParquetMetaData;
use proto::v1::{StageRequest, StagedChunk};
use uuid::Uuid;

use super::lineage::Lineage;
use super::manifest::{self, Common};
use super::metrics::{self, NanCounts};
use super::partition::{self, Partitions};
use super::storage::Storage;
use super::{IcebergTable, Paths, STAGED_PREFIX, schema, snapshot};
use crate::error::WriterError;
use crate::partition::Split;
use crate::stage::{Sink, Stage};
use crate::storage::plain;
use crate::target::Staging;

/// A stage being filled.
struct IcebergStage {
    storage: Arc<dyn Storage>,
    paths: Paths,
    scratch: PathBuf,
    /// With a note of its lineage.
    schema: SchemaRef,
    spec: PartitionSpec,
    partitions: Option<Arc<Partitions>>,
    load_id: String,
    chunk_id: u32,
    id: Uuid,
    files: Vec<DataFile>,
    /// Locations of all files begun, to be removed unless sealed.
    begun: Vec<String>,
    /// Values of the open file's partition.
    partition: Struct,
    nan: NanCounts,
    sealed: bool,
}

/// Begins a chunk whose batches have the columns of `layout`.
pub fn begin(
    table: &IcebergTable,
    request: &StageRequest,
    source: &ArrowSchema,
    layout: &ArrowSchema,
) -> Result<Staging, WriterError> {
    plain("load_id", &request.load_id)?;
    let mut loaded = table.load()?;
    let name = table.name.to_string();
    let columns: Vec<_> = source.fields().iter().map(|field| field.name().as_str()).collect();
    let regex = &table.partition_regex;
    let fields = partition::parse(regex, &columns)?;
    let plan = |metadata: Option<&TableMetadata>| {
        let plan = schema::plan(&name, metadata, layout, &table.identifiers)?;
        let now = metadata.map(|metadata| metadata.default_partition_spec().as_ref());
        let spec = partition::spec(regex, &fields, &plan.table, now)?;
        Ok::<_, WriterError>((plan, spec))
    };
    if loaded.is_none() && table.catalog.places_tables() {
        let (plan, spec) = plan(None)?;
        let empty = snapshot::empty_table(&plan.table, &spec, &table.new_location)?;
        table.catalog.create_empty(&table.name, &empty)?;
        loaded = table.load()?;
    }
    let metadata = loaded.as_ref().map(|loaded| &loaded.metadata);
    let (plan, spec) = plan(metadata)?;
    let partitions = Partitions::new(&spec, &plan.table, &plan.arrow)?;
    let split = partitions.clone().map(|partitions| Box::new(partitions) as Box<dyn Split>);
    let stage = IcebergStage {
        storage: Arc::clone(&table.storage),
        paths: Paths::of(metadata, &table.new_location),
        scratch: table.storage.scratch(),
        schema: Arc::new(plan.lineage.noted(&plan.table)?),
        spec,
        partitions,
        load_id: request.load_id.clone(),
        chunk_id: request.chunk_id,
        id: Uuid::new_v4(),
        files: Vec::new(),
        begun: Vec::new(),
        partition: Struct::empty(),
        nan: NanCounts::default(),
        sealed: false,
    };
    Ok(Staging { stage: Box::new(stage), schema: plan.arrow, split })
}

impl Stage for IcebergStage {
    fn scratch(&self) -> &Path {
        &self.scratch
    }

    fn wants_schema_file(&self) -> bool {
        false
    }

    /// Iceberg's own reader for Spark fails on texts so encoded, and before 1.10
    /// on numbers.
    fn readers_know_deltas(&self) -> bool {
        false
    }

    fn open(&mut self, partition: &str) -> Result<Box<dyn Sink>, WriterError> {
        if let Some(partitions) = &self.partitions {
            self.partition = partitions.values(partition)?;
        }
        let number = self.begun.len();
        let id = self.id.simple();
        let name = format!("{:05}-{number:05}-{id}.parquet", self.chunk_id);
        let location = format!("{}/{name}", self.paths.load(&self.load_id));
        self.begun.push(location.clone());
        self.nan = NanCounts::default();
        self.storage.create(&location)
    }

    fn wrote(&mut self, batch: &RecordBatch) {
        self.nan.add(batch);
    }

    fn close(&mut self, sink: &mut dyn Sink, footer: &ParquetMetaData) -> Result<(), WriterError> {
        let location = self
            .begun
            .last()
            .ok_or_else(|| WriterError::Internal("a file is closed that was not opened".into()))?;
        let bytes = sink.finish()?;
        let nan = std::mem::take(&mut self.nan);
        let partition = self.partition.clone();
        let file =
            metrics::data_file(location.clone(), bytes, footer, &self.schema, partition, &nan)?;
        self.files.push(file);
        Ok(())
    }

    fn seal(mut self: Box<Self>, request: &StageRequest) -> Result<StagedChunk, WriterError> {
        let files = std::mem::take(&mut self.files);
        let id = self.id.simple();
        let manifest = format!(
            "{}/{STAGED_PREFIX}{}-{:05}-{id}.avro",
            self.paths.metadata, self.load_id, self.chunk_id
        );
        let chunk = StagedChunk {
            load_id: request.load_id.clone(),
            chunk_id: request.chunk_id,
            settings_hash: request.settings_hash.clone(),
            manifest,
            rows: files.iter().map(DataFile::record_count).sum(),
            files: files.len() as u64,
            bytes: files.iter().map(DataFile::file_size_in_bytes).sum(),
        };
        let common = Common {
            schema: Arc::clone(&self.schema),
            spec: self.spec.clone(),
            content: ManifestContentType::Data,
        };
        let encoded = manifest::added(&common, files)?;
        self.storage.write(&chunk.manifest, &encoded.content)?;
        self.sealed = true;
        Ok(chunk)
    }
}

impl Drop for IcebergStage {
    fn drop(&mut self) {
        if self.sealed {
            return;
        }
        for location in &self.begun {
            if let Err(error) = self.storage.delete(location) {
                // A Prepare tries again.
                tracing::warn!("{error}; {location} is left for later");
            }
        }
    }
}

/// What the chunks of a commit hold.
#[derive(Debug)]
pub struct Staged {
    /// What their files have in common.
    pub common: Common,
    /// Where their columns come from.
    pub lineage: Lineage,
    /// All files, in the order of the chunks.
    pub files: Vec<DataFile>,
}

/// Reads back what descriptors describe, and demands that it is the same, and
/// inside the table.
pub(super) fn read(
    storage: &dyn Storage,
    paths: &Paths,
    load_id: &str,
    chunks: &[StagedChunk],
) -> Result<Staged, WriterError> {
    plain("load_id", load_id)?;
    let mut common: Option<Common> = None;
    let mut files = Vec::new();
    for chunk in chunks {
        let gone = |problem: &str| WriterError::StageGone {
            manifest: chunk.manifest.clone().into(),
            problem: problem.to_owned(),
        };
        let name = chunk.manifest.strip_prefix(&paths.metadata);
        let name = name.and_then(|name| name.strip_prefix('/'));
        if name.and_then(load_of) != Some(load_id) {
            return Err(WriterError::InvalidRequest(format!(
                "{} is no manifest of load {load_id} in {}",
                chunk.manifest, paths.metadata
            )));
        }
        let content =
            storage.read(&chunk.manifest)?.ok_or_else(|| gone("it is no longer there"))?;
        let manifest = manifest::decode(&chunk.manifest, &content)?;
        let of_chunk: Vec<_> =
            manifest.entries().iter().map(|entry| entry.data_file().clone()).collect();
        let sum = |of: fn(&DataFile) -> u64| of_chunk.iter().map(of).sum::<u64>();
        let described = (chunk.rows, chunk.files, chunk.bytes);
        let found =
            (sum(DataFile::record_count), of_chunk.len() as u64, sum(DataFile::file_size_in_bytes));
        if found != described {
            return Err(gone("it is another chunk than was asked for"));
        }
        let directory = format!("{}/", paths.load(load_id));
        if !of_chunk.iter().all(|file| file.file_path().starts_with(&directory)) {
            return Err(gone("it names a file elsewhere"));
        }
        let schema = Arc::clone(manifest.metadata().schema());
        match &common {
            None => {
                common = Some(Common {
                    schema,
                    spec: manifest.metadata().partition_spec().clone(),
                    content: ManifestContentType::Data,
                });
            }
            Some(first) if first.schema.as_struct() != schema.as_struct() => {
                return Err(gone("the table's schema has changed while the load was staged"));
            }
            Some(first) if !first.spec.is_compatible_with(manifest.metadata().partition_spec()) => {
                return Err(gone("partition_regex has changed while the load was staged"));
            }
            Some(_) => {}
        }
        files.extend(of_chunk);
    }
    let mut common = common
        .ok_or_else(|| WriterError::InvalidRequest("a commit needs a staged chunk".into()))?;
    let (schema, lineage) = Lineage::of_noted(&common.schema)?;
    common.schema = Arc::new(schema);
    Ok(Staged { common, lineage, files })
}

/// The load that the name of a staged manifest tells.
pub fn load_of(name: &str) -> Option<&str> {
    let rest = name.strip_prefix(STAGED_PREFIX)?.strip_suffix(".avro")?;
    let (rest, _attempt) = rest.rsplit_once('-')?;
    let (load, _chunk) = rest.rsplit_once('-')?;
    (!load.contains('/')).then_some(load)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_staged_manifest_names_its_load() {
        let name = "staged-0198-a-b-00003-6f1ed002ab5595859014ebf0951522d9.avro";
        assert_eq!(load_of(name), Some("0198-a-b"));
        for other in
            ["snap-1-0-a.avro", "staged-x.avro", "staged-a-1-b.parquet", "staged-a/b-1-c.avro"]
        {
            assert_eq!(load_of(other), None, "{other}");
        }
    }
}
