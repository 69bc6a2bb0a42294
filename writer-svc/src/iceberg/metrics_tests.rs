//! Footers of real files, written as the encoder writes them.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray,
    Float32Array, Float64Array, Int32Array, Int64Array, ListArray, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{Field, Int32Type, Schema as ArrowSchema};
use parquet::arrow::ArrowWriter;

use super::*;
use crate::encoding;
use crate::iceberg::schema::plan;

/// The description of a file with one column `c`, an array for each row group.
fn described(groups: Vec<ArrayRef>) -> DataFile {
    described_as(groups, |field| field)
}

fn described_as(groups: Vec<ArrayRef>, adapt: impl FnOnce(Field) -> Field) -> DataFile {
    let field = adapt(Field::new("c", groups[0].data_type().clone(), true));
    let plan = plan("d.t", None, &ArrowSchema::new(vec![field]), &[]).unwrap();
    let batches = groups.into_iter().map(|column| {
        // Lists have an item of another name.
        let column = arrow::compute::cast(&column, plan.arrow.field(0).data_type()).unwrap();
        RecordBatch::try_new(Arc::clone(&plan.arrow), vec![column]).unwrap()
    });
    let batches: Vec<_> = batches.collect();
    let properties = encoding::properties(&batches[0], 1 << 30, false);
    let mut nan = NanCounts::default();
    let schema = Arc::clone(&plan.arrow);
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties)).unwrap();
    for batch in &batches {
        writer.write(batch).unwrap();
        writer.flush().unwrap();
        nan.add(batch);
    }
    let footer = writer.finish().unwrap();
    assert_eq!(footer.num_row_groups(), batches.len());
    data_file("file:///f".into(), 1000, &footer, &plan.table, &Content::Data, Struct::empty(), &nan)
        .unwrap()
}

/// Lower and upper bound of `c`.
fn bounds_of(file: &DataFile) -> (Option<Datum>, Option<Datum>) {
    (file.lower_bounds().get(&1).cloned(), file.upper_bounds().get(&1).cloned())
}

fn both(lower: Datum, upper: Datum) -> (Option<Datum>, Option<Datum>) {
    (Some(lower), Some(upper))
}

fn texts(texts: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(texts.to_vec()))
}

#[test]
fn numbers_of_all_row_groups_bound_a_column() {
    let ints: [ArrayRef; 2] = [
        Arc::new(Int32Array::from(vec![Some(3), None, Some(-7)])),
        Arc::new(Int32Array::from(vec![i32::MIN, 9])),
    ];
    let file = described(ints.to_vec());
    assert_eq!(bounds_of(&file), both(Datum::int(i32::MIN), Datum::int(9)));
    assert_eq!((file.record_count(), file.file_size_in_bytes()), (5, 1000));
    assert_eq!((file.value_counts()[&1], file.null_value_counts()[&1]), (5, 1));
    assert!(file.column_sizes()[&1] > 0 && file.nan_value_counts().is_empty());
    let offsets = file.split_offsets().unwrap();
    assert!(offsets.len() == 2 && offsets[0] == 4 && offsets[1] > 4, "{offsets:?}");

    let longs = described(vec![Arc::new(Int64Array::from(vec![-1, i64::MAX]))]);
    assert_eq!(bounds_of(&longs), both(Datum::long(-1), Datum::long(i64::MAX)));
    let days = described(vec![Arc::new(Date32Array::from(vec![-800_000, 1]))]);
    assert_eq!(bounds_of(&days), both(Datum::date(-800_000), Datum::date(1)));
    let bools = described(vec![Arc::new(BooleanArray::from(vec![false, true]))]);
    assert_eq!(bounds_of(&bools), both(Datum::bool(false), Datum::bool(true)));
    let times = TimestampMicrosecondArray::from(vec![-1, 5]).with_timezone("UTC");
    let times = described(vec![Arc::new(times)]);
    let expected = both(Datum::timestamptz_micros(-1), Datum::timestamptz_micros(5));
    assert_eq!(bounds_of(&times), expected);
}

#[test]
fn decimals_are_ordered_as_numbers_however_they_are_stored() {
    for precision in [5, 9, 10, 18, 19, 38] {
        let column = |values: Vec<i128>| -> ArrayRef {
            let column = Decimal128Array::from(values);
            Arc::new(column.with_precision_and_scale(precision, 2).unwrap())
        };
        let file = described(vec![column(vec![5, -99_999]), column(vec![-1, 256])]);
        let (lower, upper) = bounds_of(&file);
        let number = |datum: Option<Datum>| match datum.unwrap().literal() {
            PrimitiveLiteral::Int128(number) => *number,
            other => panic!("{other:?}"),
        };
        assert_eq!((number(lower), number(upper)), (-99_999, 256), "decimal({precision},2)");
    }
}

#[test]
fn nan_is_counted_and_leaves_no_upper_bound() {
    let file = described(vec![Arc::new(Float64Array::from(vec![
        Some(1.5),
        Some(f64::NAN),
        None,
        Some(f64::NEG_INFINITY),
    ]))]);
    assert_eq!(bounds_of(&file), (Some(Datum::double(f64::NEG_INFINITY)), None));
    assert_eq!((file.nan_value_counts()[&1], file.null_value_counts()[&1]), (1, 1));

    let file = described(vec![Arc::new(Float32Array::from(vec![0.0, 2.0]))]);
    let (lower, upper) = bounds_of(&file);
    // Zero has two signs, which are equal and ordered.
    assert_eq!(lower.unwrap().to_bytes().unwrap(), (-0.0_f32).to_le_bytes().to_vec());
    assert_eq!(upper, Some(Datum::float(2.0)));
    assert_eq!(file.nan_value_counts()[&1], 0);

    // A group of NaN alone has no statistics.
    let groups: [ArrayRef; 2] =
        [Arc::new(Float64Array::from(vec![f64::NAN])), Arc::new(Float64Array::from(vec![1.0]))];
    assert_eq!(bounds_of(&described(groups.to_vec())), (None, None));
}

#[test]
fn text_is_cut_and_an_upper_bound_raised() {
    let long = |c: char| c.to_string().repeat(100);
    // Both groups' statistics are inexact for the long, exact for the short.
    let groups = vec![texts(&[&long('a'), &long('z')]), texts(&["m", "n"])];
    let expected = both(Datum::string("a".repeat(16)), Datum::string("z".repeat(15) + "{"));
    assert_eq!(bounds_of(&described(groups)), expected);

    let exact = described(vec![texts(&["", "sixteen letters."])]);
    assert_eq!(bounds_of(&exact), both(Datum::string(""), Datum::string("sixteen letters.")));

    // Code points, not bytes.
    let wide = "ü€𝄞\u{d7ff}".repeat(5);
    let file = described(vec![texts(&[&wide])]);
    let kept: String = wide.chars().take(16).collect();
    let raised = kept.strip_suffix('\u{d7ff}').unwrap().to_owned() + "\u{e000}";
    assert_eq!(bounds_of(&file), both(Datum::string(kept), Datum::string(raised)));

    let highest = "\u{10ffff}".repeat(16) + "x";
    let (lower, upper) = bounds_of(&described(vec![texts(&[&highest])]));
    assert_eq!((lower, upper), (Some(Datum::string("\u{10ffff}".repeat(16))), None));
    let file = described(vec![texts(&[&("a".to_owned() + &highest)])]);
    assert_eq!(bounds_of(&file).1, Some(Datum::string("b")));
}

#[test]
fn bytes_are_cut_and_an_upper_bound_raised() {
    let column = |values: Vec<&[u8]>| -> ArrayRef { Arc::new(BinaryArray::from(values)) };
    let file = described(vec![column(vec![&[0, 1], &[0xff; 3]])]);
    assert_eq!(bounds_of(&file), both(Datum::binary([0, 1]), Datum::binary([0xff; 3])));
    let mut high = vec![7];
    high.extend([0xff; 40]);
    let file = described(vec![column(vec![&high])]);
    let expected = both(Datum::binary(high[..16].to_vec()), Datum::binary([8]));
    assert_eq!(bounds_of(&file), expected);
    let file = described(vec![column(vec![&[0xff; 100]])]);
    assert_eq!(bounds_of(&file).1, None);
}

#[test]
fn what_has_no_safe_bounds_has_none() {
    let uuids = FixedSizeBinaryArray::try_from_iter([[1_u8; 16], [0xff; 16]].iter()).unwrap();
    let file = described_as(vec![Arc::new(uuids)], |field| {
        let name = ("ARROW:extension:name".to_owned(), "arrow.uuid".to_owned());
        field.with_metadata([name].into())
    });
    assert_eq!(bounds_of(&file), (None, None));
    assert_eq!((file.value_counts()[&1], file.null_value_counts()[&1]), (2, 0));

    let nulls = described(vec![Arc::new(Int32Array::from(vec![None, None]))]);
    assert_eq!(bounds_of(&nulls), (None, None));
    assert_eq!((nulls.value_counts()[&1], nulls.null_value_counts()[&1]), (2, 2));
    // A group without values says nothing against the other's bounds.
    let groups: [ArrayRef; 2] =
        [Arc::new(Int32Array::from(vec![None])), Arc::new(Int32Array::from(vec![4]))];
    let expected = both(Datum::int(4), Datum::int(4));
    assert_eq!(bounds_of(&described(groups.to_vec())), expected);

    let lists =
        ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), Some(2)]), None]);
    let file = described(vec![Arc::new(lists)]);
    assert!(file.column_sizes()[&2] > 0);
    assert!(file.value_counts().is_empty() && file.lower_bounds().is_empty());
}
