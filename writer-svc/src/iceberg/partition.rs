//! How an Iceberg table is partitioned: `/{created_at, day}/{user_id, bucket[64]}`.
//!
//! ```text
//! text ─► columns and transforms ─► the table's partition spec
//! rows ─► transformed columns ─► a name for each partition ─► its values in the manifest
//! ```
//!
//! A partition's name is its values in Arrow's row format, as text: the same
//! values, the same name, and from the name the values come back. No path of a
//! file says them; readers find files by the manifests.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::datatypes::{DataType, Schema as ArrowSchema};
use arrow::row::{RowConverter, SortField};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use iceberg::arrow::arrow_primitive_to_literal;
use iceberg::spec::{
    PartitionField, PartitionSpec, Schema, Struct, Transform, Type, UnboundPartitionSpec,
};

use super::transform;
use crate::error::WriterError;
use crate::naming::{OLAKE_TIMESTAMP, destination_name};
use crate::partition::Split;
use crate::partition::groups::Groups;
use crate::partition::syntax::{self, Token};

/// What is wrong with a `partition_regex` says how one looks.
const EXAMPLE: &str = "/{created_at, day}/{user_id, bucket[64]}";

/// One field of the spec to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// Its place among the source's columns; `None`: the time of the run.
    pub source: Option<usize>,
    /// The destination's column.
    pub column: String,
    pub transform: Transform,
}

/// The fields of a `partition_regex`, none for an unpartitioned table; finds
/// what can be wrong before the columns' types are known.
pub fn parse(regex: &str, columns: &[&str]) -> Result<Vec<Field>, WriterError> {
    fields(regex, columns).map_err(|problem| WriterError::InvalidPartition {
        regex: regex.to_owned(),
        problem,
        example: EXAMPLE,
    })
}

fn fields(regex: &str, columns: &[&str]) -> Result<Vec<Field>, String> {
    let mut fields = Vec::new();
    for (position, token) in syntax::tokens(regex.trim())? {
        let at = |problem: String| format!("at character {position}: {problem}");
        match token {
            Token::Text(text) => {
                let text = text.trim_matches(|c: char| c == '/' || c.is_whitespace());
                if !text.is_empty() {
                    return Err(at(format!(
                        "{text:?} stands outside of braces: an Iceberg table is partitioned by \
                         columns, {{column, transform}}, and its directories have no names"
                    )));
                }
            }
            Token::Braces(inside) => {
                let field = field(&inside, columns).map_err(at)?;
                if fields.contains(&field) {
                    return Err(at(format!("{{{inside}}} stands there twice")));
                }
                fields.push(field);
            }
        }
    }
    Ok(fields)
}

fn field(inside: &str, columns: &[&str]) -> Result<Field, String> {
    let parts = syntax::parts(inside);
    let [column, transform] = parts.as_slice() else {
        return Err(format!(
            "{{{inside}}} has {} parts; write {{column, transform}}, as in {{user_id, identity}}",
            parts.len()
        ));
    };
    let transform = parse_transform(transform)?;
    if syntax::is_now(column) {
        return Ok(Field { source: None, column: OLAKE_TIMESTAMP.to_owned(), transform });
    }
    let index = syntax::find_column(column, columns)?;
    Ok(Field { source: Some(index), column: destination_name(columns[index]), transform })
}

fn parse_transform(text: &str) -> Result<Transform, String> {
    let text = text.to_ascii_lowercase();
    let parameter = |name: &str| {
        let inside = text.strip_prefix(name)?.trim_start().strip_prefix('[')?.strip_suffix(']')?;
        inside.trim().parse().ok().filter(|n| (1..=i32::MAX as u32).contains(n))
    };
    Ok(match text.as_str() {
        "identity" => Transform::Identity,
        "year" => Transform::Year,
        "month" => Transform::Month,
        "day" => Transform::Day,
        "hour" => Transform::Hour,
        "void" => Transform::Void,
        _ => match (parameter("bucket"), parameter("truncate")) {
            (Some(buckets), _) => Transform::Bucket(buckets),
            (_, Some(width)) => Transform::Truncate(width),
            _ => {
                return Err(format!(
                    "the transform {text:?} is none of identity, year, month, day, hour, \
                     bucket[N], truncate[N], void, with N from 1 to 2147483647"
                ));
            }
        },
    })
}

/// The fields as a spec of the table with this schema: `now`, the one it has,
/// if that says the same, whatever the names of columns were when it was made.
pub fn spec(
    regex: &str,
    fields: &[Field],
    schema: &Schema,
    now: Option<&PartitionSpec>,
) -> Result<PartitionSpec, WriterError> {
    let says = |field: &Field, part: &PartitionField| {
        let column = schema.field_by_id(part.source_id);
        column.is_some_and(|column| column.name == field.column)
            && part.transform == field.transform
    };
    let same = |now: &&PartitionSpec| {
        now.fields().len() == fields.len()
            && fields.iter().zip(now.fields()).all(|(field, part)| says(field, part))
    };
    if let Some(now) = now.filter(same) {
        return Ok(now.clone());
    }
    let bind = || -> Result<PartitionSpec, String> {
        let mut builder = UnboundPartitionSpec::builder();
        let mut names: Vec<String> = Vec::new();
        for field in fields {
            let column = schema.field_by_name(&field.column);
            let column = column.ok_or_else(|| format!("there is no column {:?}", field.column))?;
            check_type(field, &column.field_type)?;
            let mut name = field_name(field);
            // Only an identity may be named as a column is: as its own.
            while names.contains(&name)
                || (schema.field_by_name(&name).is_some()
                    && (field.transform != Transform::Identity || name != field.column))
            {
                name.push('_');
            }
            builder = builder
                .add_partition_field(column.id, name.clone(), field.transform)
                .map_err(|error| error.message().to_owned())?;
            names.push(name);
        }
        builder.build().bind(schema.clone()).map_err(|error| error.message().to_owned())
    };
    bind().map_err(|problem| WriterError::InvalidPartition {
        regex: regex.to_owned(),
        problem,
        example: EXAMPLE,
    })
}

fn check_type(field: &Field, kind: &Type) -> Result<(), String> {
    let problem = |advice: &str| {
        Err(format!(
            "column {:?} is {kind}, which {} cannot take{advice}",
            field.column, field.transform
        ))
    };
    match (field.transform, kind) {
        (transform, _) if transform.result_type(kind).is_err() => problem(match transform {
            Transform::Bucket(_) => {
                ": it takes integers, decimals, dates, times, text, uuid, binary"
            }
            Transform::Truncate(_) => ": it takes integers, decimals, text and binary",
            Transform::Hour => ": it takes timestamps",
            Transform::Year | Transform::Month | Transform::Day => {
                ": it takes dates and timestamps"
            }
            _ => ": it takes single values only",
        }),
        _ => Ok(()),
    }
}

/// As Java's library names fields.
fn field_name(field: &Field) -> String {
    let column = &field.column;
    match field.transform {
        Transform::Year => format!("{column}_year"),
        Transform::Month => format!("{column}_month"),
        Transform::Day => format!("{column}_day"),
        Transform::Hour => format!("{column}_hour"),
        Transform::Bucket(_) => format!("{column}_bucket"),
        Transform::Truncate(_) => format!("{column}_trunc"),
        Transform::Void => format!("{column}_null"),
        _ => column.clone(),
    }
}

/// The partitions of a table: rows ↔ names ↔ values.
#[derive(Debug)]
pub struct Partitions {
    /// Places among the destination's columns.
    columns: Vec<(usize, Transform)>,
    converter: RowConverter,
    /// Of the partition values.
    types: Vec<Type>,
}

impl Partitions {
    /// Of a spec over `schema`, for batches of the columns of `laid_out`;
    /// `None` for an unpartitioned table.
    pub fn new(
        spec: &PartitionSpec,
        schema: &Schema,
        laid_out: &ArrowSchema,
    ) -> Result<Option<Arc<Self>>, WriterError> {
        if spec.fields().is_empty() {
            return Ok(None);
        }
        let failed = |problem: String| WriterError::Internal(format!("partitioning: {problem}"));
        let mut columns = Vec::new();
        let mut sorted = Vec::new();
        for field in spec.fields() {
            let name = schema.name_by_field_id(field.source_id).unwrap_or_default();
            let index = laid_out.index_of(name).map_err(|error| failed(error.to_string()))?;
            let kind = laid_out.field(index).data_type();
            sorted.push(SortField::new(match field.transform {
                Transform::Day => DataType::Date32,
                Transform::Year | Transform::Month | Transform::Hour | Transform::Bucket(_) => {
                    DataType::Int32
                }
                _ => kind.clone(),
            }));
            columns.push((index, field.transform));
        }
        let types = spec.partition_type(schema).map_err(WriterError::iceberg("partitioning"))?;
        let types = types.fields().iter().map(|field| field.field_type.as_ref().clone()).collect();
        let converter = RowConverter::new(sorted).map_err(|error| failed(error.to_string()))?;
        Ok(Some(Arc::new(Partitions { columns, converter, types })))
    }

    /// The values of the partition with this name.
    pub fn values(&self, name: &str) -> Result<Struct, WriterError> {
        let failed =
            |problem: String| WriterError::Internal(format!("partition {name}: {problem}"));
        let row = STANDARD_NO_PAD.decode(name).map_err(|error| failed(error.to_string()))?;
        let parser = self.converter.parser();
        let values: Vec<ArrayRef> = self
            .converter
            .convert_rows([parser.parse(&row)])
            .map_err(|error| failed(error.to_string()))?;
        let mut literals = Vec::with_capacity(values.len());
        for (value, kind) in values.iter().zip(&self.types) {
            let literal = arrow_primitive_to_literal(value, kind)
                .map_err(WriterError::iceberg("reading a partition value"))?;
            literals.extend(literal);
        }
        Ok(Struct::from_iter(literals))
    }
}

impl Split for Arc<Partitions> {
    fn split(
        &self,
        _source: &RecordBatch,
        laid_out: &RecordBatch,
    ) -> Result<Vec<(String, UInt32Array)>, WriterError> {
        let values = self
            .columns
            .iter()
            .map(|(index, transform)| transform::apply(*transform, laid_out.column(*index)))
            .collect::<Result<Vec<_>, _>>()?;
        let rows = self.converter.convert_columns(&values).map_err(|source| {
            WriterError::Arrow { doing: "telling partitions apart".into(), source }
        })?;
        let mut groups = Groups::with_capacity(laid_out.num_rows());
        for row in &rows {
            let key = row.data();
            groups.push(key, || Ok::<_, WriterError>(STANDARD_NO_PAD.encode(key)))?;
        }
        Ok(groups.collect())
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Date32Array, Decimal64Array, FixedSizeBinaryArray, StringArray};
    use arrow::datatypes::Field as ArrowField;
    use iceberg::spec::Literal;

    use super::*;
    use crate::iceberg::schema;

    fn problem(regex: &str) -> String {
        parse(regex, &["id", "Kind of", "kind-of", "at"]).unwrap_err().to_string()
    }

    #[test]
    fn fields_are_columns_with_transforms_in_their_order() {
        let field =
            |source, column: &str, transform| Field { source, column: column.into(), transform };
        assert_eq!(
            parse(" /{at, day}/ {'ID2',Bucket[ 16 ]}/{now(), hour}/", &["at", "ID2"]).unwrap(),
            [
                field(Some(0), "at", Transform::Day),
                field(Some(1), "id2", Transform::Bucket(16)),
                field(None, OLAKE_TIMESTAMP, Transform::Hour),
            ]
        );
        assert_eq!(parse(" / ", &["at"]).unwrap(), []);
        // The source's spelling goes before the destination's.
        assert_eq!(parse("{a_b,void}", &["a b", "a_b"]).unwrap()[0].source, Some(1));
    }

    #[test]
    fn what_is_no_field_is_said_with_its_place() {
        for (regex, said) in [
            ("/{id, identity", "at character 2: '{' without a '}'"),
            ("/{id, identity}/x", "at character 16: \"x\" stands outside of braces"),
            ("/{gone, identity}", "at character 2: there is no column \"gone\""),
            ("/{kind_of, identity}", "could be each of \"Kind of\", \"kind-of\""),
            ("/{id, bucket}", "\"bucket\" is none of"),
            ("/{id, bucket[-1]}", "\"bucket[-1]\" is none of"),
            ("/{id, truncate[2147483648]}", "is none of"),
            ("/{id,,YYYY}", "has 3 parts"),
        ] {
            assert!(problem(regex).contains(said), "{regex}: {}", problem(regex));
        }
    }

    #[test]
    fn a_name_gives_the_values_back_of_which_it_was_made() {
        let uuid = ArrowField::new("u", DataType::FixedSizeBinary(16), true)
            .with_metadata([("ARROW:extension:name".into(), "arrow.uuid".into())].into());
        let layout = ArrowSchema::new(vec![
            ArrowField::new("s", DataType::Utf8, true),
            ArrowField::new("d", DataType::Date32, true),
            ArrowField::new("n", DataType::Decimal128(9, 2), true),
            uuid,
        ]);
        let plan = schema::plan("d.t", None, &layout, &[]).unwrap();
        let regex = "{s,identity}{d,month}{n,truncate[100]}{u,bucket[4]}{d,void}{u,identity}";
        let fields = parse(regex, &["s", "d", "n", "u"]).unwrap();
        let spec = spec(regex, &fields, &plan.table, None).unwrap();
        let names: Vec<_> = spec.fields().iter().map(|field| field.name.as_str()).collect();
        assert_eq!(names, ["s", "d_month", "n_trunc", "u_bucket", "d_null", "u"]);
        let partitions = Partitions::new(&spec, &plan.table, &plan.arrow).unwrap().unwrap();

        let money = Decimal64Array::from(vec![Some(-5), Some(-100), None, Some(-5)]);
        let uuids = [[0_u8; 16], [255; 16], [0; 16], [0; 16]];
        let uuid = |at: usize| Some(Literal::uuid(uuid::Uuid::from_bytes(uuids[at])));
        // As it comes: decimals in 64 bits.
        let batch = RecordBatch::try_from_iter([
            (
                "s",
                Arc::new(StringArray::from(vec![Some(""), Some("é/="), None, Some("")]))
                    as ArrayRef,
            ),
            ("d", Arc::new(Date32Array::from(vec![Some(-1), Some(0), None, Some(-31)]))),
            ("n", Arc::new(money.with_precision_and_scale(9, 2).unwrap())),
            ("u", Arc::new(FixedSizeBinaryArray::try_from_iter(uuids.iter()).unwrap())),
        ])
        .unwrap();
        let split = partitions.split(&batch, &batch).unwrap();
        let rows: Vec<_> = split.iter().map(|(_, rows)| rows.values().to_vec()).collect();
        assert_eq!(rows, [vec![0, 3], vec![1], vec![2]]);
        let values: Vec<_> =
            split.iter().map(|(name, _)| partitions.values(name).unwrap()).collect();
        let first =
            [Some(Literal::string("")), Some(Literal::int(-1)), Some(Literal::decimal(-100))];
        assert_eq!(values[0].fields()[..3], first);
        assert_eq!(values[1].fields()[2], Some(Literal::decimal(-100)));
        assert_eq!(values[2].fields()[..3], [None, None, None]);
        assert!(
            values.iter().all(|values| values.fields().len() == 6 && values.fields()[4].is_none())
        );
        assert_eq!((&values[0].fields()[5], &values[1].fields()[5]), (&uuid(0), &uuid(1)));
    }

    #[test]
    fn a_field_is_not_named_as_another_column_is() {
        let column = |name: &str| ArrowField::new(name, DataType::Int32, true);
        let layout = ArrowSchema::new(vec![column("a"), column("a_bucket")]);
        let plan = schema::plan("d.t", None, &layout, &[]).unwrap();
        let fields =
            parse("{a,bucket[2]}{a,bucket[3]}{a_bucket,identity}", &["a", "a_bucket"]).unwrap();
        let spec = spec("", &fields, &plan.table, None).unwrap();
        let names: Vec<_> = spec.fields().iter().map(|field| field.name.as_str()).collect();
        assert_eq!(names, ["a_bucket_", "a_bucket__", "a_bucket"]);
    }
}
