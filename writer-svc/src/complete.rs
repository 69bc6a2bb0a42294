//! Changes that do not say all of what they come to, completed by what the table
//! holds.
//!
//! ```text
//! stage n:      rows that lack values; rows that are gone ─► [`aside`]
//! commit n − 1
//! complete n:   keys ─► the table's rows ─► values ─► whole rows, staged like others
//!               rows that are gone ─► the table's ─► their places, staged as deletes
//! commit n
//! ```
//!
//! The next intervals of a log are staged while earlier ones are not yet
//! committed, so staging never looks at the table's rows. This does, after the
//! commit before and before its own: the caller says which commit it means, the
//! table is refused if it has another, and the commit that follows demands the
//! same one. Commits of others in between may move rows and delete them, but
//! not change the values of one; a place that a row has moved from makes the
//! commit be refused, and everything is read again.
//!
//! A row that got another key is looked for under the one that it had.
//!
//! A value is never guessed: where a row is not there, or the table has what is
//! not understood here, that is said, nothing is staged, and the table has to be
//! loaded anew. Only what is kept as deleted goes without: its key is then all
//! that is known of it.

pub mod aside;
pub mod wanted;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray, UInt32Array,
};
use arrow::compute::kernels::zip::zip;
use arrow::compute::{concat_batches, is_not_null, take_record_batch};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::util::display::array_value_to_string;
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;
use proto::columns::unchanged;
use proto::v1::stage_request::Kind;
use proto::v1::{CompleteRequest, CompleteResponse, StageRequest, StagedChunk};

use crate::Options;
use crate::decimal;
use crate::error::WriterError;
use crate::iceberg::positions;
use crate::layout::Layout;
use crate::naming::METADATA_COLUMNS;
use crate::render::members::with_members;
use crate::row_metadata;
use crate::rows::Rows;
use crate::scan::{Column, Which};
use aside::Place;

/// Rows of a batch of places.
const PLACES: usize = 8192;

/// Why rows cannot be found.
#[derive(Debug)]
pub enum Unfound {
    /// The table has what is not understood here; in words.
    Cannot(String),
    /// It could not be read.
    Failed(WriterError),
}

impl From<WriterError> for Unfound {
    fn from(error: WriterError) -> Self {
        Unfound::Failed(error)
    }
}

/// Is told of rows together their keys' places, and the values that were asked for.
pub type Found<'a> = &'a mut dyn FnMut(&[usize], Vec<ArrayRef>) -> Result<(), Unfound>;

/// Rows of data files by their places, ascending.
pub type Places = BTreeMap<String, BTreeSet<u64>>;

/// A table as it is, to be asked for its rows.
pub trait Asked {
    /// For messages.
    fn name(&self) -> String;

    /// The columns of a key as the table declares them.
    fn declared(&self, key: &Schema) -> Result<SchemaRef, WriterError>;

    /// Finds the row of each of `keys` and tells its `values`. Returns the places of
    /// the keys that have no row.
    fn rows(
        &self,
        keys: &RecordBatch,
        values: &[Column],
        found: Found<'_>,
    ) -> Result<Vec<usize>, Unfound>;

    /// Finds places of rows that are equal to those of `rows` in all columns from
    /// `first` on, as many as each is there, and adds them to `taken`, of which it
    /// finds none again; `id` is a column that equal rows have in common. Returns
    /// how many were not found.
    fn places(
        &self,
        rows: &RecordBatch,
        id: usize,
        first: usize,
        taken: &mut Places,
    ) -> Result<usize, Unfound>;
}

/// Demands that a table's last commit is the one that the caller means.
pub fn check_commit(
    table: &str,
    request: &CompleteRequest,
    current: &str,
) -> Result<(), WriterError> {
    if current == request.expected_commit_id {
        return Ok(());
    }
    Err(WriterError::Fenced { table: table.to_owned(), by: current.to_owned() })
}

/// That the table cannot tell what is asked.
pub fn missing(what: impl Into<String>) -> CompleteResponse {
    CompleteResponse { staged: Vec::new(), missing: what.into() }
}

/// The load whose changes wait.
pub fn load_id(request: &CompleteRequest) -> Result<&str, WriterError> {
    let pending = request.pending.as_ref().map(|pending| pending.load_id.as_str());
    pending.ok_or_else(|| WriterError::InvalidRequest("nothing to complete is named".into()))
}

/// Stages what the changes come to that were put aside in `place`.
pub fn complete(
    table: &dyn Asked,
    place: &Place,
    request: &CompleteRequest,
    options: &Options,
) -> Result<CompleteResponse, WriterError> {
    let (Some(stage), Some(pending)) = (&request.stage, &request.pending) else {
        return Err(WriterError::InvalidRequest("nothing to complete is named".into()));
    };
    match (Task { table, place, stage, pending, options }).run() {
        Ok(staged) => Ok(CompleteResponse { staged: vec![staged], missing: String::new() }),
        Err(Unfound::Cannot(what)) => Ok(missing(what)),
        Err(Unfound::Failed(error)) => Err(error),
    }
}

/// What is to be completed.
struct Task<'a> {
    table: &'a dyn Asked,
    place: &'a Place,
    stage: &'a StageRequest,
    pending: &'a StagedChunk,
    options: &'a Options,
}

impl Task<'_> {
    fn run(&self) -> Result<StagedChunk, Unfound> {
        let reader = aside::open(self.place, &self.table.name(), self.pending)?;
        let waits = reader.schema();
        let sent = (0..aside::sent(&waits)).collect::<Vec<_>>();
        let sent = Arc::new(
            waits.project(&sent).map_err(WriterError::arrow("taking columns of changes"))?,
        );
        let keyed = self.stage.table.as_ref().is_some_and(|table| !table.key_columns.is_empty());
        let data = self.staging(Kind::Data, 2);
        let mut rows = Rows::begin(data, &sent, self.options)?;
        let mut keys = keyed.then(|| Keys::new(self.table, self.stage, &sent)).transpose()?;
        let mut places = Places::new();
        let mut part = Part::new(self.options);
        for batch in reader {
            let doing = format!("reading {}", self.pending.manifest);
            part.push(batch.map_err(WriterError::arrow(doing))?);
            if part.is_full() {
                self.part(&part.take(&waits)?, &mut rows, keys.as_mut(), &mut places)?;
            }
        }
        self.part(&part.take(&waits)?, &mut rows, keys.as_mut(), &mut places)?;
        if keyed {
            return Ok(rows.finish(&Default::default())?);
        }
        Ok(self.stage_places(&places)?)
    }

    fn staging(&self, kind: Kind, number: u32) -> StageRequest {
        let chunk_id = self.stage.chunk_id + number;
        StageRequest { kind: kind.into(), chunk_id, ..self.stage.clone() }
    }

    fn part(
        &self,
        waited: &RecordBatch,
        rows: &mut Rows,
        keys: Option<&mut Keys>,
        places: &mut Places,
    ) -> Result<(), Unfound> {
        if waited.num_rows() == 0 {
            return Ok(());
        }
        let (sent, from) = parts(waited)?;
        let sent = &sent;
        let Some(keys) = keys else {
            let (_, laid_out) = rows.lay_out(sent)?;
            let left = self.table.places(&laid_out, 0, METADATA_COLUMNS.len(), places)?;
            if left > 0 {
                let what = format!("{left} rows that were deleted at the source are not in it");
                return Err(Unfound::Cannot(what));
            }
            return Ok(());
        };
        let wanted = keys.of(sent, &from)?;
        let (source, laid_out) = rows.lay_out(sent)?;
        let lacking = Lacking::of(sent, rows, &laid_out)?;
        let missing = self.table.rows(&wanted, &lacking.columns, &mut |hits, arrays| {
            let at = hits.iter().map(|&hit| hit as u32).collect::<UInt32Array>();
            let (source, laid_out) = (take(&source, &at)?, take(&laid_out, &at)?);
            rows.write(&source, &lacking.fill(hits, &laid_out, &arrays)?)?;
            Ok(())
        })?;
        let ops = sent.column(0).as_string::<i32>();
        if let Some(&row) = missing.iter().find(|&&row| ops.value(row) != "d") {
            let shown = |column: &ArrayRef| array_value_to_string(column, row).unwrap_or_default();
            let key: Vec<_> = wanted.columns().iter().map(shown).collect();
            let what = format!("a row that was changed is not in it (its key is {key:?})");
            return Err(Unfound::Cannot(what));
        }
        let at = missing.iter().map(|&row| row as u32).collect::<UInt32Array>();
        rows.write(&take(&source, &at)?, &take(&laid_out, &at)?)?;
        Ok(())
    }

    fn stage_places(&self, places: &Places) -> Result<StagedChunk, WriterError> {
        let columns: SchemaRef = Arc::new(positions::columns());
        let request = StageRequest {
            row_metadata: false,
            report_keys: false,
            ..self.staging(Kind::PositionDeletes, 3)
        };
        let mut rows = Rows::begin(request, &columns, self.options)?;
        for (file, places) in places {
            let places: Vec<i64> = places.iter().map(|place| place.cast_signed()).collect();
            for places in places.chunks(PLACES) {
                let files: ArrayRef = Arc::new(StringArray::new_repeated(file, places.len()));
                let places: ArrayRef = Arc::new(Int64Array::from(places.to_vec()));
                let batch = RecordBatch::try_new(Arc::clone(&columns), vec![files, places]);
                rows.push(&batch.map_err(WriterError::arrow("telling places of rows"))?)?;
            }
        }
        rows.finish(&Default::default())
    }
}

/// Rows that are completed together.
struct Part {
    batches: Vec<RecordBatch>,
    bytes: usize,
    budget: usize,
}

impl Part {
    fn new(options: &Options) -> Self {
        let budget = usize::try_from(options.sort_bytes).unwrap_or(usize::MAX);
        Part { batches: Vec::new(), bytes: 0, budget }
    }

    fn push(&mut self, batch: RecordBatch) {
        self.bytes += batch.get_array_memory_size();
        self.batches.push(batch);
    }

    fn is_full(&self) -> bool {
        self.bytes >= self.budget
    }

    fn take(&mut self, schema: &SchemaRef) -> Result<RecordBatch, WriterError> {
        self.bytes = 0;
        let batches = std::mem::take(&mut self.batches);
        concat_batches(schema, &batches).map_err(WriterError::arrow("putting rows together"))
    }
}

/// Keys of changes as the table has them.
struct Keys {
    layout: Layout,
    places: Vec<usize>,
}

impl Keys {
    fn new(table: &dyn Asked, stage: &StageRequest, sent: &Schema) -> Result<Self, WriterError> {
        let key = stage.table.as_ref().map(|table| table.key_columns.as_slice());
        let reserved = row_metadata::reserved(sent);
        let place = |name: &String| {
            let found = sent.fields().iter().skip(reserved).position(|field| field.name() == name);
            found.map(|at| at + reserved).ok_or_else(|| {
                WriterError::InvalidRequest(format!("the key column {name:?} was not sent"))
            })
        };
        let places: Vec<usize> =
            key.unwrap_or_default().iter().map(place).collect::<Result<_, _>>()?;
        let fields = places.iter().map(|&at| Arc::clone(&sent.fields()[at])).collect::<Vec<_>>();
        let source = Schema::new_with_metadata(fields, sent.metadata().clone());
        let mut layout = Layout::of_key(&source, stage)?;
        let declared = decimal::declared(&layout.schema());
        layout.declare(&*table.declared(&declared)?);
        Ok(Keys { layout, places })
    }

    /// `from`: the columns of the keys that rows had; null where they have them.
    fn of(&mut self, sent: &RecordBatch, from: &RecordBatch) -> Result<RecordBatch, WriterError> {
        let keys = sent.project(&self.places).map_err(WriterError::arrow("taking keys"))?;
        let before = |(at, own): (usize, &ArrayRef)| match from.columns().get(at) {
            Some(from) => zip(&is_not_null(from)?, from, own),
            None => Ok(Arc::clone(own)),
        };
        let columns = keys.columns().iter().enumerate().map(before);
        let keys = columns
            .collect::<Result<Vec<_>, _>>()
            .and_then(|columns| RecordBatch::try_new(keys.schema(), columns))
            .map_err(WriterError::arrow("taking keys"))?;
        self.layout.apply(&keys, None)
    }
}

/// What rows lack, and where it stands in the table.
struct Lacking {
    /// Of each row, places of source columns.
    rows: Vec<Vec<usize>>,
    /// What has to be read.
    columns: Vec<Column>,
    /// Of each of those the place in rows as they are laid out, and the source's
    /// column; `None`: the rows as JSON.
    stands: Vec<(usize, Option<usize>)>,
}

impl Lacking {
    fn of(sent: &RecordBatch, rows: &Rows, laid_out: &RecordBatch) -> Result<Self, Unfound> {
        let bits = row_metadata::unchanged(sent);
        let lacks = |row: usize| {
            let bits = bits.filter(|bits| bits.is_valid(row)).map(|bits| bits.value(row));
            unchanged(bits.unwrap_or_default()).collect::<Vec<_>>()
        };
        let lacks: Vec<Vec<usize>> = (0..sent.num_rows()).map(lacks).collect();
        let needed: BTreeSet<usize> = lacks.iter().flatten().copied().collect();
        let typed = rows.layout().typed().filter(|(source, _)| needed.contains(source));
        let json = rows.layout().json().map(|place| (place, None));
        let stands: Vec<_> =
            json.into_iter().chain(typed.map(|(source, place)| (place, Some(source)))).collect();
        let places: Vec<usize> = stands.iter().map(|(place, _)| *place).collect();
        let read = laid_out.project(&places).map_err(WriterError::arrow("taking columns"))?;
        Ok(Lacking { rows: lacks, columns: columns_of(&read)?, stands })
    }

    /// The rows at `hits`, laid out, with what they lack.
    fn fill(
        &self,
        hits: &[usize],
        laid_out: &RecordBatch,
        found: &[ArrayRef],
    ) -> Result<RecordBatch, WriterError> {
        let mut columns = laid_out.columns().to_vec();
        for ((place, source), found) in self.stands.iter().zip(found) {
            let column = &mut columns[*place];
            *column = match source {
                Some(source) => {
                    let lacks = hits.iter().map(|&hit| Some(self.rows[hit].contains(source)));
                    zip(&lacks.collect::<BooleanArray>(), found, &*column)
                        .map_err(WriterError::arrow("completing rows"))?
                }
                None => self.fill_json(hits, column, found)?,
            };
        }
        RecordBatch::try_new(laid_out.schema(), columns)
            .map_err(WriterError::arrow("completing rows"))
    }

    fn fill_json(
        &self,
        hits: &[usize],
        ours: &ArrayRef,
        found: &ArrayRef,
    ) -> Result<ArrayRef, WriterError> {
        let (ours, found) = (ours.as_string::<i32>(), found.as_string::<i32>());
        let merge = |(row, &hit): (usize, &usize)| {
            with_members(ours.value(row), found.value(row), &self.rows[hit]).ok_or_else(|| {
                WriterError::BadData(format!("a row is no JSON object: {:.100}", found.value(row)))
            })
        };
        let merged = hits.iter().enumerate().map(merge).collect::<Result<Vec<_>, _>>()?;
        Ok(Arc::new(StringArray::from(merged)))
    }
}

/// The columns of a batch as the table tells them apart: by their fields' ids, or by
/// their names where they have none.
pub fn columns_of(batch: &RecordBatch) -> Result<Vec<Column>, Unfound> {
    let schema = batch.schema();
    let column = |field: &arrow::datatypes::FieldRef| {
        let which = match field.metadata().get(PARQUET_FIELD_ID_META_KEY).map(|id| id.parse()) {
            Some(Ok(id)) => Which::Id(id),
            Some(Err(_)) => {
                let what =
                    format!("the column {:?} has a field id that is no number", field.name());
                return Err(Unfound::Failed(WriterError::Internal(what)));
            }
            None => Which::Name(field.name().clone()),
        };
        Ok(Column { which, kind: field.data_type().clone() })
    };
    schema.fields().iter().map(column).collect()
}

/// What was put aside: the changes, and the keys that they had.
fn parts(waited: &RecordBatch) -> Result<(RecordBatch, RecordBatch), WriterError> {
    let sent = aside::sent(&waited.schema());
    let part = |columns: std::ops::Range<usize>| {
        let part = waited.project(&columns.collect::<Vec<_>>());
        part.map_err(WriterError::arrow("taking columns of changes"))
    };
    Ok((part(0..sent)?, part(sent..waited.num_columns())?))
}

fn take(batch: &RecordBatch, at: &UInt32Array) -> Result<RecordBatch, WriterError> {
    take_record_batch(batch, at).map_err(WriterError::arrow("taking rows"))
}
