//! Which files of a table may say something about the wanted keys.

use std::cmp::Ordering;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int32Type, Int64Type};
use iceberg::spec::{DataContentType, DataFile, DataFileFormat, Datum, PrimitiveType, Type};

use crate::complete::Unfound;
use crate::iceberg::IcebergTable;
use crate::iceberg::catalog::Loaded;
use crate::iceberg::manifest::{self, Lives};

/// A file to read.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub location: String,
    pub bytes: u64,
    pub sequence_number: i64,
}

/// Files to read.
#[derive(Debug, Default)]
pub struct Files {
    pub data: Vec<Candidate>,
    /// Of equality deletes by the wanted key.
    pub equality: Vec<Candidate>,
    /// Of position deletes.
    pub positions: Vec<Candidate>,
}

/// The wanted values of the key's first column, ascending.
#[derive(Debug)]
pub struct Bounds {
    field: i32,
    values: Vec<Datum>,
}

impl Bounds {
    /// `None`: the key is of a type that is not looked at.
    pub fn of(base: &Loaded, ids: &[i32], keys: &RecordBatch) -> Option<Self> {
        let &field = ids.first()?;
        let known = base.metadata.current_schema().field_by_id(field)?;
        let Type::Primitive(kind) = known.field_type.as_ref() else { return None };
        let column = keys.column(0);
        let values: Option<Vec<Datum>> = match (column.data_type(), kind) {
            (DataType::Int32, PrimitiveType::Int) => {
                let values = column.as_primitive::<Int32Type>().iter();
                values.map(|value| value.map(Datum::int)).collect()
            }
            (DataType::Int64, PrimitiveType::Long) => {
                let values = column.as_primitive::<Int64Type>().iter();
                values.map(|value| value.map(Datum::long)).collect()
            }
            (DataType::Utf8, PrimitiveType::String) => {
                let values = column.as_string::<i32>().iter();
                values.map(|value| value.map(Datum::string)).collect()
            }
            _ => None,
        };
        let mut values = values?;
        values.sort_by(|a, b| a.partial_cmp(b).unwrap_or(Ordering::Equal));
        Some(Bounds { field, values })
    }

    /// Whether a wanted value lies between the bounds of a file.
    fn allow(&self, file: &DataFile) -> bool {
        let (Some(lower), Some(upper)) =
            (file.lower_bounds().get(&self.field), file.upper_bounds().get(&self.field))
        else {
            return true;
        };
        // Of other types (a column that was widened) nothing is less.
        let at = self.values.partition_point(|value| value < lower);
        self.values.get(at).is_some_and(|value| value.partial_cmp(upper) != Some(Ordering::Greater))
    }
}

/// The files of the current snapshot that may; `ids`: the key's fields.
pub fn find(
    table: &IcebergTable,
    base: &Loaded,
    ids: &[i32],
    bounds: Option<&Bounds>,
) -> Result<Files, Unfound> {
    let mut files = Files::default();
    let mut key = ids.to_vec();
    key.sort_unstable();
    for listed in table.manifests(base)?.iter().filter(|listed| manifest::may_be_live(listed)) {
        let content = table.object(&listed.manifest_path)?;
        for live in Lives::of(listed, &content)? {
            let live = live?;
            let file = &live.file;
            let (into, bounded) = match file.content_type() {
                DataContentType::Data => (&mut files.data, true),
                DataContentType::EqualityDeletes => {
                    let mut deleted = file.equality_ids().unwrap_or_default();
                    deleted.sort_unstable();
                    if deleted != key {
                        let what = "it has equality deletes by other columns than its key";
                        return Err(Unfound::Cannot(what.to_owned()));
                    }
                    (&mut files.equality, true)
                }
                DataContentType::PositionDeletes => (&mut files.positions, false),
            };
            if bounded && !bounds.is_none_or(|bounds| bounds.allow(file)) {
                continue;
            }
            if file.file_format() != DataFileFormat::Parquet {
                let what = format!("it has a file that is no Parquet, {}", file.file_path());
                return Err(Unfound::Cannot(what));
            }
            into.push(Candidate {
                location: file.file_path().to_owned(),
                bytes: file.file_size_in_bytes(),
                sequence_number: live.sequence_number,
            });
        }
    }
    Ok(files)
}
