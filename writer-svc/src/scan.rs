//! One Parquet file of a table, its columns by their field ids or names.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;

use arrow::array::{ArrayRef, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::DataType;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection,
};

use crate::complete::Unfound;
use crate::iceberg::storage::Storage;
use crate::object::Object;

/// Bytes of a batch, about, and its rows.
const BATCH_BYTES: usize = 8 << 20;
const BATCH_ROWS: usize = 8192;

/// What tells a column from the others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Which {
    /// Its field's id.
    Id(i32),
    /// Its name, in tables whose fields have none.
    Name(String),
}

/// A column that is wanted.
#[derive(Clone, Debug)]
pub struct Column {
    /// Which.
    pub which: Which,
    /// The type that its values are wanted in.
    pub kind: DataType,
}

/// An open file.
pub struct Scan {
    object: Object,
    metadata: ArrowReaderMetadata,
    /// Places of its columns.
    places: BTreeMap<Which, usize>,
}

impl Scan {
    /// Reads its footer.
    pub fn open(storage: &Arc<dyn Storage>, location: &str, bytes: u64) -> Result<Self, Unfound> {
        let object = Object::new(storage, location, bytes);
        // What the file says of Arrow is its writer's.
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let metadata = ArrowReaderMetadata::load(&object, options);
        let metadata = metadata.map_err(|error| failed(&object, error))?;
        let fields = metadata.parquet_schema().root_schema().get_fields().iter().enumerate();
        let mut places = BTreeMap::new();
        for (place, field) in fields {
            let info = field.get_basic_info();
            if info.has_id() {
                places.insert(Which::Id(info.id()), place);
            }
            places.insert(Which::Name(info.name().to_owned()), place);
        }
        Ok(Scan { object, metadata, places })
    }

    /// Whether its fields have ids.
    pub fn has_ids(&self) -> bool {
        self.places.keys().any(|which| matches!(which, Which::Id(_)))
    }

    /// Reads columns, of the rows at `at` (ascending) or of all: batches with
    /// the number of their first row among those read. A column that the file
    /// lacks is null.
    pub fn read(
        &self,
        columns: &[Column],
        at: Option<&[u64]>,
        mut each: impl FnMut(u64, Vec<ArrayRef>) -> Result<(), Unfound>,
    ) -> Result<(), Unfound> {
        if at.is_some_and(<[u64]>::is_empty) || columns.is_empty() {
            return Ok(());
        }
        let mut roots: Vec<usize> =
            columns.iter().filter_map(|column| self.places.get(&column.which)).copied().collect();
        roots.sort_unstable();
        roots.dedup();
        let mask = ProjectionMask::roots(self.metadata.parquet_schema(), roots.iter().copied());
        let mut builder = ParquetRecordBatchReaderBuilder::new_with_metadata(
            self.object.clone(),
            self.metadata.clone(),
        )
        .with_batch_size(self.batch_rows(&mask))
        .with_projection(mask);
        if let Some(at) = at {
            let rows = self.metadata.metadata().file_metadata().num_rows().max(0) as usize;
            let ranges = at.iter().map(|&row| row as usize..row as usize + 1);
            let selection = RowSelection::from_consecutive_ranges(ranges, rows);
            builder = builder.with_row_selection(selection);
        }
        let reader = builder.build().map_err(|error| failed(&self.object, error))?;
        let mut first = 0;
        for batch in reader {
            let batch = batch.map_err(|error| failed(&self.object, error))?;
            let array = |column: &Column| {
                let place = self.places.get(&column.which);
                let place = place.and_then(|place| roots.binary_search(place).ok());
                let Some(place) = place else {
                    return Ok(new_null_array(&column.kind, batch.num_rows()));
                };
                self.as_wanted(batch.column(place), &column.kind)
            };
            let arrays = columns.iter().map(array).collect::<Result<Vec<_>, Unfound>>()?;
            let rows = batch.num_rows() as u64;
            each(first, arrays)?;
            first += rows;
        }
        Ok(())
    }

    fn as_wanted(&self, array: &ArrayRef, kind: &DataType) -> Result<ArrayRef, Unfound> {
        if array.data_type() == kind {
            return Ok(Arc::clone(array));
        }
        let options = CastOptions { safe: false, ..CastOptions::default() };
        cast_with_options(array, kind, &options).map_err(|error| {
            let is = array.data_type();
            Unfound::Cannot(format!("{} has {is}, not {kind}: {error}", self.object.location()))
        })
    }

    /// As many rows as make a batch of the masked columns.
    fn batch_rows(&self, mask: &ProjectionMask) -> usize {
        let (mut bytes, mut rows) = (0, 0);
        for group in self.metadata.metadata().row_groups() {
            rows += group.num_rows().max(0) as usize;
            for (leaf, column) in group.columns().iter().enumerate() {
                if mask.leaf_included(leaf) {
                    bytes += column.uncompressed_size().max(0) as usize;
                }
            }
        }
        (BATCH_BYTES / (bytes / rows.max(1)).max(1)).clamp(1, BATCH_ROWS)
    }
}

/// An error of our own storage, or what the file has that is not understood.
fn failed(object: &Object, error: impl Display) -> Unfound {
    match object.failure() {
        Some(ours) => Unfound::Failed(ours),
        None => Unfound::Cannot(format!("reading {}: {error}", object.location())),
    }
}
