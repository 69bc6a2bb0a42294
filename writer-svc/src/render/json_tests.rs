//! What `row_to_json` of a PostgreSQL 15 server printed for these rows.

use std::sync::Arc;

use arrow::array::{
    AsArray, BinaryArray, BooleanArray, BooleanBuilder, Date32Array, Decimal128Array,
    FixedSizeBinaryArray, Float32Array, Float64Array, Int32Array, Int32Builder, ListBuilder,
    RecordBatchOptions, StringArray, StringBuilder, Time64MicrosecondArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field};

use super::*;
use crate::render::json_extension;

const CAESAR: i64 = -63_517_824_000_000_000;

fn rows(columns: Vec<(Field, ArrayRef)>) -> Vec<String> {
    let (fields, arrays): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
    let schema = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(Arc::clone(&schema), arrays).unwrap();
    let json = JsonRows::new(&schema).of(&batch).unwrap();
    json.as_string::<i32>().iter().map(|row| row.unwrap().to_owned()).collect()
}

fn column(name: &str, array: impl arrow::array::Array + 'static) -> (Field, ArrayRef) {
    (Field::new(name, array.data_type().clone(), true), Arc::new(array))
}

fn json_column(name: &str, array: impl arrow::array::Array + 'static) -> (Field, ArrayRef) {
    let (field, array) = column(name, array);
    (field.with_metadata(json_extension()), array)
}

fn lists() -> Vec<(Field, ArrayRef)> {
    let mut integers = ListBuilder::new(Int32Builder::new());
    integers.append_value([Some(1), None]);
    let mut texts = ListBuilder::new(StringBuilder::new());
    texts.append_value([Some("x"), Some("a\"b"), None]);
    let mut empty = ListBuilder::new(BooleanBuilder::new());
    empty.append(true);
    let element = Field::new("item", DataType::Utf8, true).with_metadata(json_extension());
    let mut jsons = ListBuilder::new(StringBuilder::new()).with_field(element);
    jsons.append_value([Some("{\"k\":1}")]);
    vec![
        column("a", integers.finish()),
        column("ta", texts.finish()),
        column("e2", empty.finish()),
        column("ja", jsons.finish()),
    ]
}

#[test]
fn a_row_of_every_type_is_as_row_to_json_writes_it() {
    let id: Vec<u8> = (1..=16).collect();
    let text = "q\" b\\ n\n t\t r\r b\u{8} f\u{c} u\u{1} /\u{7f}é😀";
    let numeric = Decimal128Array::from(vec![1250]).with_precision_and_scale(10, 2).unwrap();
    let mut columns = vec![
        column("b", BooleanArray::from(vec![true])),
        column("i4", Int32Array::from(vec![-5])),
        column("n", Float64Array::from(vec![f64::NAN])),
        column("i", Float32Array::from(vec![f32::NEG_INFINITY])),
        column("z", Float64Array::from(vec![-0.0])),
        column("e", Float64Array::from(vec![1e20])),
        column("nu", numeric),
        column("d", Date32Array::from(vec![-735_160])),
        column("t", Time64MicrosecondArray::from(vec![3_723_500_000])),
        column("ts", TimestampMicrosecondArray::from(vec![1_709_209_800_500_000])),
        column("tz", TimestampMicrosecondArray::from(vec![CAESAR]).with_timezone("UTC")),
        column("u", FixedSizeBinaryArray::try_from_iter([id].iter()).unwrap()),
        column("by", BinaryArray::from(vec![&b"\0\xff"[..]])),
        column("s", StringArray::from(vec![text])),
        json_column("j", StringArray::from(vec!["{\"a\" :  [1]}"])),
    ];
    columns.extend(lists());
    columns.push(column("nn", Int32Array::from(vec![None])));
    let expected = concat!(
        r#"{"b":true,"i4":-5,"n":"NaN","i":"-Infinity","z":-0,"e":1e+20,"nu":12.50,"#,
        r#""d":"0044-03-15 BC","t":"01:02:03.5","ts":"2024-02-29T12:30:00.5","#,
        r#""tz":"0044-03-15T00:00:00+00:00 BC","#,
        r#""u":"01020304-0506-0708-090a-0b0c0d0e0f10","by":"\\x00ff","#,
        r#""s":"q\" b\\ n\n t\t r\r b\b f\f u\u0001 /"#,
        "\u{7f}",
        r#"é😀","j":{"a" :  [1]},"a":[1,null],"ta":["x","a\"b",null],"e2":[],"#,
        r#""ja":[{"k":1}],"nn":null}"#,
    );
    assert_eq!(rows(columns), [expected]);
}

#[test]
fn keys_are_the_source_names_escaped() {
    let columns = vec![column("J \"a\\€", Int32Array::from(vec![1, 2]))];
    assert_eq!(rows(columns), [r#"{"J \"a\\€":1}"#, r#"{"J \"a\\€":2}"#]);
}

#[test]
fn a_row_without_columns_is_an_empty_object() {
    let options = RecordBatchOptions::new().with_row_count(Some(2));
    let schema = Arc::new(Schema::empty());
    let batch = RecordBatch::try_new_with_options(schema, vec![], &options).unwrap();
    let json = JsonRows::new(&batch.schema()).of(&batch).unwrap();
    assert_eq!(json.as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["{}", "{}"]);
}
