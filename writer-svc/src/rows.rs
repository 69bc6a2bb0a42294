//! The way of a stream's rows into the files of a stage.
//!
//! ```text
//! rows:     ─────────────────────────────────► layout ─► split, sort ─► encode ─► stage
//! changes:  reduce ─┬─ each key's last row ──► layout ─► split, sort ─► encode ─► stage
//!                   │  (where rows can be deleted)
//!                   ├─ keys to delete ───────► layout ────────────────► encode ─► stage
//!                   └─ rows that lack values, and of tables without a key those that are
//!                      gone ─────────────────► aside, until the table can be asked
//! ```

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use proto::v1::stage_request::Kind;
use proto::v1::{StageRequest, StagedChunk};
use tokio_util::sync::CancellationToken;

use crate::Options;
use crate::complete::aside::{self, Aside};
use crate::decimal;
use crate::encode::Encoder;
use crate::error::WriterError;
use crate::iceberg::positions;
use crate::layout::Layout;
use crate::partition::Split;
use crate::reduce::{Reducer, Scope};
use crate::row_metadata::{self, RowMetadata, Said};
use crate::spill::PartitionSorter;
use crate::target::{self, Staging};

/// What becomes of the batches of a stream.
pub enum Way {
    /// All rows are staged.
    Rows(Box<Rows>),
    /// What they come to is.
    Changes(Box<Changes>),
}

impl Way {
    /// For batches of the schema `sent`. Refuses what no batch could pass.
    pub fn begin(
        request: &StageRequest,
        sent: &SchemaRef,
        options: &Options,
    ) -> Result<Self, WriterError> {
        Ok(match request.kind() {
            Kind::Changes => Way::Changes(Box::new(Changes::begin(request, sent, options)?)),
            Kind::Data | Kind::EqualityDeletes | Kind::PositionDeletes => {
                Way::Rows(Box::new(Rows::begin(request.clone(), sent, options)?))
            }
        })
    }

    /// Takes a batch.
    pub fn push(&mut self, sent: &RecordBatch) -> Result<(), WriterError> {
        match self {
            Way::Rows(rows) => rows.push(sent),
            Way::Changes(changes) => changes.push(sent),
        }
    }

    /// Stages everything that was pushed.
    pub fn finish(self, cancelled: &CancellationToken) -> Result<StagedChunk, WriterError> {
        match self {
            Way::Rows(rows) => rows.finish(cancelled),
            Way::Changes(changes) => changes.finish(cancelled),
        }
    }
}

/// Changes on their way.
pub struct Changes {
    request: StageRequest,
    options: Options,
    sent: SchemaRef,
    /// Absent: the stream says it itself.
    said: Option<Said>,
    reducer: Reducer,
    rows: Rows,
    /// Absent: the destination cannot delete rows.
    keys: Option<Rows>,
}

impl Changes {
    fn begin(
        request: &StageRequest,
        sent: &SchemaRef,
        options: &Options,
    ) -> Result<Self, WriterError> {
        let said = (!request.row_metadata).then(|| Said::of(request, sent));
        let sent = &said.as_ref().map_or_else(|| Arc::clone(sent), Said::schema);
        let rows = StageRequest { kind: Kind::Data.into(), row_metadata: true, ..request.clone() };
        let rows = Rows::begin(rows, sent, options)?;
        let key = request.table.as_ref().map(|table| table.key_columns.as_slice());
        let (deletes, soft) =
            (rows.deletes, request.table.as_ref().is_some_and(|table| table.soft_deletes));
        let reducer = Reducer::new(
            match (deletes, soft) {
                (true, false) if request.inserts_replace => Scope::Replacing,
                (true, false) => Scope::Stream,
                (true, true) => Scope::Kept,
                (false, _) => Scope::Transaction,
            },
            Arc::clone(sent),
            key.unwrap_or_default(),
            rows.encoder.scratch(),
            usize::try_from(options.sort_bytes).unwrap_or(usize::MAX),
        )?;
        let (options, sent) = (options.clone(), Arc::clone(sent));
        if !deletes || key.is_none_or(<[String]>::is_empty) {
            let request = request.clone();
            return Ok(Changes { request, options, sent, said, reducer, rows, keys: None });
        }
        let keys = StageRequest {
            kind: Kind::EqualityDeletes.into(),
            row_metadata: false,
            report_keys: false,
            chunk_id: request.chunk_id + 1,
            ..request.clone()
        };
        let keys = Some(Rows::begin(keys, &reducer.keys(), &options)?);
        Ok(Changes { request: request.clone(), options, sent, said, reducer, rows, keys })
    }

    fn push(&mut self, sent: &RecordBatch) -> Result<(), WriterError> {
        match &self.said {
            Some(said) => self.reducer.push(&said.put(sent)?),
            None => self.reducer.push(sent),
        }
    }

    fn finish(mut self, cancelled: &CancellationToken) -> Result<StagedChunk, WriterError> {
        let mut aside: Option<Aside> = None;
        let keyed = self.request.table.as_ref().is_some_and(|table| !table.key_columns.is_empty());
        let keys = keyed.then(|| self.reducer.keys());
        let waits = aside::columns(&self.sent, keys.as_deref());
        let unknown_keys = self.reducer.unknown_keys();
        for reduced in self.reducer.finish()? {
            if cancelled.is_cancelled() {
                return Err(WriterError::Cancelled);
            }
            let reduced = reduced?;
            self.rows.push(&reduced.rows)?;
            if let Some(keys) = &mut self.keys {
                keys.push(&reduced.keys)?;
            }
            if reduced.lacking.num_rows() > 0 {
                let open = match &mut aside {
                    Some(open) => open,
                    None => {
                        let (destination, table) =
                            (self.request.destination.as_ref(), self.request.table.as_ref());
                        let target = target::of(destination, table, &self.options)?;
                        let place = target.aside(&self.request.load_id)?;
                        aside.insert(Aside::create(place, &self.request, &waits)?)
                    }
                };
                open.push(&aside::rows(&waits, &reduced.lacking, reduced.from.as_ref())?)?;
            }
        }
        let mut staged = self.rows.finish(cancelled)?;
        staged.unknown_keys = unknown_keys;
        if let Some(keys) = self.keys.filter(|keys| keys.pushed > 0) {
            staged.deletes = Some(Box::new(keys.finish(cancelled)?));
        }
        if let Some(aside) = aside {
            staged.pending = Some(Box::new(aside.finish(&self.request)?));
        }
        Ok(staged)
    }
}

/// Rows on their way.
pub struct Rows {
    request: StageRequest,
    layout: Layout,
    row_metadata: Option<RowMetadata>,
    encoder: Encoder,
    sorted: Option<(Box<dyn Split>, PartitionSorter)>,
    /// Rows taken so far.
    pushed: usize,
    /// Rows among them that lack values.
    unresolved: u64,
    /// Whether the destination can delete rows.
    deletes: bool,
}

impl Rows {
    /// For batches of the schema `sent`.
    pub fn begin(
        request: StageRequest,
        sent: &SchemaRef,
        options: &Options,
    ) -> Result<Self, WriterError> {
        let target = target::of(request.destination.as_ref(), request.table.as_ref(), options)?;
        if !target.takes(request.kind()) {
            return Err(WriterError::InvalidRequest(format!(
                "the destination of {} takes no {}: of its kinds of tables only Iceberg's do",
                request.table.as_ref().map_or("", |table| table.stream.as_str()),
                request.kind().as_str_name()
            )));
        }
        let deletes = target.takes(Kind::EqualityDeletes);
        if request.report_keys && !(deletes && request.kind() == Kind::Data) {
            let what = "only of rows that are staged into Iceberg keys can be reported".to_owned();
            return Err(WriterError::InvalidRequest(what));
        }
        let row_metadata = RowMetadata::of(&request, sent)?;
        let source = match &row_metadata {
            Some(row_metadata) => row_metadata.source(),
            None => Arc::clone(sent),
        };
        let names: Vec<_> = source.fields().iter().map(|f| f.name().as_str()).collect();
        let mut layout = match request.kind() {
            Kind::EqualityDeletes => Layout::of_key(&source, &request)?,
            Kind::PositionDeletes => Layout::of_columns(&source, &positions::columns(), &request)?,
            Kind::Data | Kind::Changes => {
                Layout::new(&source, &request, &target.typed_columns(&names)?)?
            }
        };
        let declared = decimal::declared(&layout.schema());
        let Staging { stage, schema, split } = target.stage(&request, &source, declared)?;
        layout.declare(&schema);
        let sorted = split.map(|split| {
            let budget = usize::try_from(options.sort_bytes).unwrap_or(usize::MAX);
            (split, PartitionSorter::new(stage.scratch(), layout.schema(), budget))
        });
        let row_group_bytes = usize::try_from(options.row_group_bytes).unwrap_or(usize::MAX);
        let encoder =
            Encoder::new(stage, layout.schema(), target.max_file_bytes(), row_group_bytes);
        Ok(Rows {
            request,
            layout,
            row_metadata,
            encoder,
            sorted,
            pushed: 0,
            unresolved: 0,
            deletes,
        })
    }

    /// Takes rows as they come.
    pub fn push(&mut self, sent: &RecordBatch) -> Result<(), WriterError> {
        if sent.num_rows() == 0 {
            return Ok(());
        }
        if self.row_metadata.is_some() {
            self.unresolved += row_metadata::unresolved(sent);
        }
        let (source, batch) = self.lay_out(sent)?;
        self.write(&source, &batch)
    }

    /// Rows as they come → the source's columns of them, and as they stand at
    /// the destination.
    pub fn lay_out(
        &mut self,
        sent: &RecordBatch,
    ) -> Result<(RecordBatch, RecordBatch), WriterError> {
        let (source, metadata) = match &self.row_metadata {
            Some(metadata) => metadata.split(sent)?,
            None => (sent.clone(), None),
        };
        let batch = self.layout.apply(&source, metadata)?;
        Ok((source, batch))
    }

    /// How they stand there.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Takes rows that are laid out.
    pub fn write(&mut self, source: &RecordBatch, batch: &RecordBatch) -> Result<(), WriterError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        self.pushed += batch.num_rows();
        match &mut self.sorted {
            None => self.encoder.write("", batch),
            Some((split, sorter)) => {
                // As it comes it says more about the table than one partition's rows.
                self.encoder.learn(batch);
                let groups = split.split(source, batch)?;
                sorter.push(batch, &groups)
            }
        }
    }

    /// Stages them.
    pub fn finish(mut self, cancelled: &CancellationToken) -> Result<StagedChunk, WriterError> {
        if let Some((_, sorter)) = self.sorted.take() {
            for part in sorter.finish()? {
                if cancelled.is_cancelled() {
                    return Err(WriterError::Cancelled);
                }
                let (partition, batch) = part?;
                self.encoder.write(&partition, &batch)?;
            }
        }
        let mut staged = self.encoder.finish()?.seal(&self.request)?;
        staged.unresolved = self.unresolved;
        Ok(staged)
    }
}
