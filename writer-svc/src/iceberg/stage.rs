//! The data files of a chunk and its manifest.
//!
//! ```text
//! <data>/load-<load id>/<chunk>-<n>-<uuid>.parquet      under their final names
//! <metadata>/staged-<load id>-<chunk>-<uuid>.avro       last: the chunk is whole
//! ```
//!
//! Data files, or the files of equality deletes, which are alike but for their
//! columns: those of a key. Where the row of each key lies is told to who asks
//! ([`super::keys`]).
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
    DataContentType, DataFile, FormatVersion, ManifestContentType, PartitionSpec, Schema,
    SchemaRef, Struct, TableMetadata,
};
use parquet::file::metadata::ParquetMetaData;
use proto::v1::stage_request::Kind;
use proto::v1::{CommitRequest, StageRequest, StagedChunk};
use uuid::Uuid;

use super::keys::Keys;
use super::lineage::Lineage;
use super::manifest::{self, Common};
use super::metrics::{self, Content, NanCounts};
use super::partition::{self, Partitions};
use super::positions::{Ascending, ByFile};
use super::storage::Storage;
use super::{IcebergTable, Paths, STAGED_PREFIX, equality, positions, schema, snapshot};
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
    content: Content,
    version: FormatVersion,
    load_id: String,
    chunk_id: u32,
    id: Uuid,
    files: Vec<DataFile>,
    /// Locations of all files begun, to be removed unless sealed.
    begun: Vec<String>,
    /// Values of the open file's partition.
    partition: Struct,
    nan: NanCounts,
    /// Of position deletes.
    positions: Ascending,
    /// Where rows lie, if that is wanted.
    keys: Option<Keys>,
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
    let is_data = matches!(request.kind(), Kind::Data | Kind::Changes);
    let columns: Vec<_> = source.fields().iter().map(|field| field.name().as_str()).collect();
    let regex = &table.partition_regex;
    let fields = if is_data { partition::parse(regex, &columns)? } else { Vec::new() };
    let plan = |metadata: Option<&TableMetadata>| {
        let plan = match request.kind() {
            Kind::Data | Kind::Changes => {
                schema::plan(&name, metadata, layout, &table.identifiers)?
            }
            Kind::EqualityDeletes => equality::plan(&name, metadata, layout)?,
            Kind::PositionDeletes => positions::plan(&name, metadata)?,
        };
        let now = metadata.map(|metadata| metadata.default_partition_spec().as_ref());
        let spec = match is_data {
            true => partition::spec(regex, &fields, &plan.table, now)?,
            false => equality::spec(),
        };
        Ok::<_, WriterError>((plan, spec))
    };
    if is_data && loaded.is_none() && table.catalog.places_tables() {
        let (plan, spec) = plan(None)?;
        let (location, version) = (&table.new_location, table.new_version);
        let empty = snapshot::empty_table(&plan.table, &spec, location, version)?;
        table.catalog.create_empty(&table.name, &empty)?;
        loaded = table.load()?;
    }
    let metadata = loaded.as_ref().map(|loaded| &loaded.metadata);
    let (plan, spec) = plan(metadata)?;
    let ids = plan.table.as_struct().fields().iter().map(|field| field.id);
    let content = match request.kind() {
        Kind::Data | Kind::Changes => Content::Data,
        Kind::EqualityDeletes => Content::EqualityDeletes(ids.collect()),
        Kind::PositionDeletes => Content::PositionDeletes(String::new()),
    };
    let paths = Paths::of(metadata, &table.new_location);
    let keys = request.report_keys.then(|| {
        let (storage, directory) = (&table.storage, paths.load(&request.load_id));
        let names = super::identity(request.table.as_ref());
        Keys::new(storage, &directory, request.chunk_id, &names, &plan.arrow)
    });
    let partitions = Partitions::new(&spec, &plan.table, &plan.arrow)?;
    let split: Option<Box<dyn Split>> = match &content {
        Content::PositionDeletes(_) => Some(Box::new(ByFile)),
        _ => partitions.clone().map(|partitions| Box::new(partitions) as Box<dyn Split>),
    };
    let stage = IcebergStage {
        storage: Arc::clone(&table.storage),
        paths,
        scratch: table.storage.scratch(),
        schema: Arc::new(plan.lineage.noted(&plan.table)?),
        spec,
        partitions,
        content,
        version: metadata.map_or(table.new_version, |metadata| metadata.format_version()),
        load_id: request.load_id.clone(),
        chunk_id: request.chunk_id,
        id: Uuid::new_v4(),
        files: Vec::new(),
        begun: Vec::new(),
        partition: Struct::empty(),
        nan: NanCounts::default(),
        positions: Ascending::default(),
        keys: keys.transpose()?,
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
        if let Content::PositionDeletes(path) = &mut self.content {
            if *path != *partition {
                self.positions = Ascending::default();
            }
            partition.clone_into(path);
        } else if let Some(partitions) = &self.partitions {
            self.partition = partitions.values(partition)?;
        }
        let number = self.begun.len();
        let id = self.id.simple();
        let name = format!("{:05}-{number:05}-{id}.parquet", self.chunk_id);
        let location = format!("{}/{name}", self.paths.load(&self.load_id));
        self.begun.push(location.clone());
        self.nan = NanCounts::default();
        if let Some(keys) = &mut self.keys {
            keys.opened(&location);
        }
        self.storage.create(&location)
    }

    fn wrote(&mut self, batch: &RecordBatch) -> Result<(), WriterError> {
        self.nan.add(batch);
        if let Content::PositionDeletes(_) = self.content {
            self.positions.add(batch);
        }
        self.keys.as_mut().map_or(Ok(()), |keys| keys.wrote(batch))
    }

    fn close(&mut self, sink: &mut dyn Sink, footer: &ParquetMetaData) -> Result<(), WriterError> {
        let location = self
            .begun
            .last()
            .ok_or_else(|| WriterError::Internal("a file is closed that was not opened".into()))?;
        if let Content::PositionDeletes(path) = &self.content {
            self.positions.check(path)?;
        }
        let bytes = sink.finish()?;
        let nan = std::mem::take(&mut self.nan);
        let partition = self.partition.clone();
        let file = metrics::data_file(
            location.clone(),
            bytes,
            footer,
            &self.schema,
            &self.content,
            partition,
            &nan,
        )?;
        self.files.push(file);
        Ok(())
    }

    fn seal(mut self: Box<Self>, request: &StageRequest) -> Result<StagedChunk, WriterError> {
        let files = std::mem::take(&mut self.files);
        let keys = self.keys.as_mut().map_or(Ok(""), Keys::finish)?.to_owned();
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
            kind: request.kind,
            keys,
            ..Default::default()
        };
        let common = Common {
            schema: Arc::clone(&self.schema),
            spec: self.spec.clone(),
            content: content_of(request.kind()),
            version: self.version,
        };
        let mut written = manifest::Writer::new(&common, None)?;
        files.iter().try_for_each(|file| written.add(file))?;
        self.storage.write(&chunk.manifest, &written.finish()?.content)?;
        self.sealed = true;
        if let Some(keys) = self.keys.take() {
            keys.keep();
        }
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

fn content_of(kind: Kind) -> ManifestContentType {
    match kind {
        Kind::Data | Kind::Changes => ManifestContentType::Data,
        Kind::EqualityDeletes | Kind::PositionDeletes => ManifestContentType::Deletes,
    }
}

/// What the chunks of a commit hold; one of both at least.
#[derive(Debug)]
pub struct Staged {
    /// Of the data chunks.
    pub data: Option<Group>,
    /// Of the chunks of equality deletes.
    pub deletes: Option<Group>,
    /// Of the chunks of position deletes.
    pub positions: Option<Group>,
    /// Where the columns of the data come from.
    pub lineage: Lineage,
    /// A chunk's manifest, for messages.
    manifest: PathBuf,
}

/// Files that are alike.
#[derive(Debug)]
pub struct Group {
    /// What they have in common.
    pub common: Common,
    /// In the order of the chunks.
    pub files: Vec<DataFile>,
}

impl Staged {
    /// All files.
    pub fn files(&self) -> impl Iterator<Item = &DataFile> {
        self.data.iter().chain(&self.deletes).chain(&self.positions).flat_map(|group| &group.files)
    }

    /// Table and files do not go together any more.
    pub fn outdated(&self, table: &IcebergTable, problem: &str) -> WriterError {
        WriterError::StageGone {
            manifest: self.manifest.clone(),
            problem: format!("the table {} has changed since: {problem}", table.name),
        }
    }
}

/// Reads back what descriptors describe, and demands that it is the same, and
/// inside the table.
pub(super) fn read(
    storage: &dyn Storage,
    paths: &Paths,
    request: &CommitRequest,
) -> Result<Staged, WriterError> {
    let load_id = request.load_id.as_str();
    plain("load_id", load_id)?;
    let mut staged = Staged {
        data: None,
        deletes: None,
        positions: None,
        lineage: Lineage::default(),
        manifest: PathBuf::new(),
    };
    for chunk in &request.staged {
        staged.manifest = chunk.manifest.clone().into();
        let name = chunk.manifest.strip_prefix(&paths.metadata);
        let name = name.and_then(|name| name.strip_prefix('/'));
        if name.and_then(load_of) != Some(load_id) {
            return Err(WriterError::InvalidRequest(format!(
                "{} is no manifest of load {load_id} in {}",
                chunk.manifest, paths.metadata
            )));
        }
        let group = match chunk.kind() {
            Kind::Data | Kind::Changes => &mut staged.data,
            Kind::EqualityDeletes => &mut staged.deletes,
            Kind::PositionDeletes => &mut staged.positions,
        };
        read_chunk(storage, &paths.load(load_id), chunk, group).map_err(|error| match error {
            Unfit::Gone(problem) => WriterError::StageGone {
                manifest: chunk.manifest.clone().into(),
                problem: problem.to_owned(),
            },
            Unfit::Failed(error) => error,
        })?;
    }
    if let Some(data) = &mut staged.data {
        let (schema, lineage) = Lineage::of_noted(&data.common.schema)?;
        data.common.schema = Arc::new(schema);
        staged.lineage = lineage;
    }
    Ok(staged)
}

/// Why a chunk cannot be committed.
enum Unfit {
    Gone(&'static str),
    Failed(WriterError),
}

impl From<WriterError> for Unfit {
    fn from(error: WriterError) -> Self {
        Unfit::Failed(error)
    }
}

fn read_chunk(
    storage: &dyn Storage,
    directory: &str,
    chunk: &StagedChunk,
    group: &mut Option<Group>,
) -> Result<(), Unfit> {
    let content = storage.read(&chunk.manifest)?.ok_or(Unfit::Gone("it is no longer there"))?;
    let mut entries = manifest::Entries::of(&chunk.manifest, &content)?;
    let mut files = Vec::new();
    for entry in entries.by_ref() {
        files.push(entry?.data_file);
    }
    let sum = |of: fn(&DataFile) -> u64| files.iter().map(of).sum::<u64>();
    let described = (chunk.rows, chunk.files, chunk.bytes);
    let found =
        (sum(DataFile::record_count), files.len() as u64, sum(DataFile::file_size_in_bytes));
    let content = match chunk.kind() {
        Kind::Data | Kind::Changes => DataContentType::Data,
        Kind::EqualityDeletes => DataContentType::EqualityDeletes,
        Kind::PositionDeletes => DataContentType::PositionDeletes,
    };
    let metadata = entries.metadata;
    if found != described
        || *metadata.content() != content_of(chunk.kind())
        || !files.iter().all(|file| file.content_type() == content)
    {
        return Err(Unfit::Gone("it is another chunk than was asked for"));
    }
    let inside = |file: &DataFile| {
        file.file_path().strip_prefix(directory).is_some_and(|name| name.starts_with('/'))
    };
    if !files.iter().all(inside) {
        return Err(Unfit::Gone("it names a file elsewhere"));
    }
    let spec = metadata.partition_spec();
    match group {
        None => {
            let common = Common {
                schema: Arc::clone(metadata.schema()),
                spec: spec.clone(),
                content: *metadata.content(),
                version: *metadata.format_version(),
            };
            *group = Some(Group { common, files });
        }
        Some(first) if !alike(&first.common.schema, metadata.schema())? => {
            return Err(Unfit::Gone("the table's schema has changed while the load was staged"));
        }
        Some(first) if !first.common.spec.is_compatible_with(spec) => {
            return Err(Unfit::Gone("partition_regex has changed while the load was staged"));
        }
        Some(first) => first.files.extend(files),
    }
    Ok(())
}

/// Whether files of the one schema can be read as those of the other, whichever of
/// them was staged before the table took the columns over.
fn alike(first: &Schema, other: &Schema) -> Result<bool, WriterError> {
    let (first, other) = (Lineage::of_noted(first)?.0, Lineage::of_noted(other)?.0);
    Ok(first.as_struct() == other.as_struct())
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
