//! What a PostgreSQL 15 server printed for these values.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryBuilder, BooleanArray, BooleanBuilder, Date32Array, Decimal64Array,
    Decimal128Array, FixedSizeBinaryArray, Float32Array, Float64Array, Float64Builder, Int32Array,
    Int64Array, ListBuilder, StringBuilder, Time64MicrosecondArray, TimestampMicrosecondArray,
    TimestampMicrosecondBuilder,
};
use arrow::datatypes::{DataType, Field};

use super::*;
use crate::render::json_extension;

fn texts(array: ArrayRef) -> Vec<String> {
    let field = Field::new("c", array.data_type().clone(), true);
    let values = Values::new(&field, &array).unwrap();
    (0..array.len())
        .map(|row| {
            let mut out = b"kept ".to_vec();
            write_text(&values, row, &mut out);
            String::from_utf8(out.split_off(5)).unwrap()
        })
        .collect()
}

fn check<T>(pairs: &[(T, &str)], array: impl FnOnce(Vec<T>) -> ArrayRef)
where
    T: Copy,
{
    let (values, expected): (Vec<_>, Vec<_>) = pairs.iter().copied().unzip();
    assert_eq!(texts(array(values)), expected);
}

#[test]
fn float8_has_the_digits_and_the_form_that_the_server_chooses() {
    check(
        &[
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (-1.5, "-1.5"),
            (0.1, "0.1"),
            (1e14, "100000000000000"),
            (999_999_999_999_999.0, "999999999999999"),
            (1e15, "1e+15"),
            (123_456_789_012_345.6, "123456789012345.6"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (-1e-7, "-1e-07"),
            (f64::MAX, "1.7976931348623157e+308"),
            (5e-324, "5e-324"),
            (f64::MIN_POSITIVE, "2.2250738585072014e-308"),
            (1e20, "1e+20"),
            (1e100, "1e+100"),
            // The shortest that reads back lies on a midpoint.
            (1e23, "9.999999999999999e+22"),
            (8.41e21, "8.409999999999999e+21"),
            (2f64.powi(-44), "5.684341886080802e-14"),
            (9_007_199_254_740_993.0, "9.007199254740992e+15"),
            (2.052268400649188e22, "2.052268400649188e+22"),
            (144_115_188_075_855_870.0, "1.4411518807585587e+17"),
            (3.5844466002796428e298, "3.5844466002796428e+298"),
            (4.14195104200637e-284, "4.14195104200637e-284"),
            (f64::INFINITY, "Infinity"),
            (f64::NEG_INFINITY, "-Infinity"),
            (f64::NAN, "NaN"),
            (-f64::NAN, "NaN"),
        ],
        |values| Arc::new(Float64Array::from(values)),
    );
}

#[test]
fn float4_has_the_digits_and_the_form_that_the_server_chooses() {
    check(
        &[
            (0.0, "0"),
            (-0.0, "-0"),
            (0.1, "0.1"),
            (-2.5, "-2.5"),
            (100_000.0, "100000"),
            (999_999.0, "999999"),
            (1e6, "1e+06"),
            (123_456.7, "123456.7"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (f32::MAX, "3.4028235e+38"),
            (1e-45, "1e-45"),
            (f32::MIN_POSITIVE, "1.1754944e-38"),
            (16_777_216.0, "1.6777216e+07"),
            (33_554_432.0, "3.3554432e+07"),
            (67_108_868.0, "6.7108864e+07"),
            (134_217_728.0, "1.3421773e+08"),
            (8_388_608.5, "8.388608e+06"),
            (2.3509887e-38, "2.3509887e-38"),
            (8_589_973_000.0, "8.589974e+09"),
            (5.3399997e9, "5.3399997e+09"),
            (f32::NEG_INFINITY, "-Infinity"),
            (f32::NAN, "NaN"),
        ],
        |values| Arc::new(Float32Array::from(values)),
    );
}

#[test]
fn integers_booleans_and_numerics() {
    let integers = [(i32::MIN, "-2147483648"), (0, "0"), (7, "7")];
    check(&integers, |values| Arc::new(Int32Array::from(values)));
    let longs = [(i64::MIN, "-9223372036854775808"), (i64::MAX, "9223372036854775807")];
    check(&longs, |values| Arc::new(Int64Array::from(values)));
    check(&[(true, "t"), (false, "f")], |values| Arc::new(BooleanArray::from(values)));
    let numeric = |precision, scale| {
        move |values| -> ArrayRef {
            let array = Decimal128Array::from(values);
            Arc::new(array.with_precision_and_scale(precision, scale).unwrap())
        }
    };
    let money = [(12_345, "123.45"), (-5, "-0.05"), (0, "0.00"), (100, "1.00")];
    check(&money, numeric(10, 2));
    let narrow = [(12_345, "123.45"), (-5, "-0.05"), (0, "0.00"), (100, "1.00")];
    check(&narrow, |values| {
        let array = Decimal64Array::from(values);
        Arc::new(array.with_precision_and_scale(10, 2).unwrap())
    });
    let widest = 99_999_999_999_999_999_999_999_999_999_999_999_999;
    check(&[(-widest, "-99999999999999999999999999999999999999"), (1, "1")], numeric(38, 0));
    check(&[(widest, "0.99999999999999999999999999999999999999")], numeric(38, 38));
}

#[test]
fn dates_times_and_timestamps() {
    let dates = [(0, "1970-01-01"), (-735_160, "0044-03-15 BC"), (2_932_897, "10000-01-01")];
    check(&dates, |values| Arc::new(Date32Array::from(values)));
    let times = [(3_723_500_000, "01:02:03.5"), (86_399_999_999, "23:59:59.999999")];
    check(&times, |values| Arc::new(Time64MicrosecondArray::from(values)));
    let timestamps = [
        (946_684_799_999_999, "1999-12-31 23:59:59.999999"),
        (-210_866_803_200_000_000, "4714-11-24 00:00:00 BC"),
        (-63_517_780_799_900_000, "0044-03-15 12:00:00.1 BC"),
        (-62_135_596_799_999_999, "0001-01-01 00:00:00.000001"),
        (327_416_976_550_120_000, "12345-06-07 08:09:10.12"),
    ];
    check(&timestamps, |values| Arc::new(TimestampMicrosecondArray::from(values)));
    let zoned =
        [(0, "1970-01-01 00:00:00+00"), (-63_517_824_000_000_000, "0044-03-15 00:00:00+00 BC")];
    check(&zoned, |values| Arc::new(TimestampMicrosecondArray::from(values).with_timezone("UTC")));
}

#[test]
fn uuids_and_nulls() {
    let id: Vec<u8> = (1..=16).collect();
    let ids = [Some(id.as_slice()), None];
    let array = FixedSizeBinaryArray::try_from_sparse_iter_with_size(ids.into_iter(), 16).unwrap();
    assert_eq!(texts(Arc::new(array)), ["01020304-0506-0708-090a-0b0c0d0e0f10", ""]);
}

#[test]
fn array_elements_are_quoted_where_array_out_quotes_them() {
    let mut list = ListBuilder::new(StringBuilder::new());
    let elements = [
        "", "NULL", "null", "nullx", "a b", "a,b", "a;b", "{", "}", "\"", "\\", "\n", "\u{b}",
        "\u{a0}", "é", "\u{1}", "plain",
    ];
    list.append_value(elements.map(Some).into_iter().chain([None]));
    list.append_value(Vec::<Option<&str>>::new());
    list.append_null();
    let expected = "{\"\",\"NULL\",\"null\",nullx,\"a b\",\"a,b\",a;b,\"{\",\"}\",\"\\\"\",\
                    \"\\\\\",\"\n\",\"\u{b}\",\u{a0},é,\u{1},plain,NULL}";
    assert_eq!(texts(Arc::new(list.finish())), [expected, "{}", ""]);
}

#[test]
fn arrays_of_other_types() {
    let mut booleans = ListBuilder::new(BooleanBuilder::new());
    booleans.append_value([Some(true), Some(false), None]);
    assert_eq!(texts(Arc::new(booleans.finish())), ["{t,f,NULL}"]);
    let mut times = ListBuilder::new(TimestampMicrosecondBuilder::new());
    times.append_value([Some(1_709_209_800_500_000), None]);
    assert_eq!(texts(Arc::new(times.finish())), ["{\"2024-02-29 12:30:00.5\",NULL}"]);
    let mut bytes = ListBuilder::new(BinaryBuilder::new());
    bytes.append_value([Some(&b"\0\xff"[..]), Some(b"")]);
    assert_eq!(texts(Arc::new(bytes.finish())), ["{\"\\\\x00ff\",\"\\\\x\"}"]);
    let mut floats = ListBuilder::new(Float64Builder::new());
    floats.append_value([Some(0.1), Some(f64::NAN), Some(-0.0)]);
    let floats = floats.finish();
    assert_eq!(texts(Arc::new(floats.slice(0, 1))), ["{0.1,NaN,-0}"]);
}

#[test]
fn a_type_that_no_source_sends_is_refused_by_its_column() {
    let nested = DataType::new_list(DataType::new_list(DataType::Int32, true), true);
    for data_type in [
        DataType::UInt8,
        DataType::Decimal64(19, 2),
        DataType::Decimal128(5, -2),
        DataType::LargeUtf8,
        nested,
    ] {
        let error = crate::render::check(&Field::new("col", data_type, true)).unwrap_err();
        assert!(error.to_string().contains("\"col\""), "{error}");
    }
    let json = Field::new("j", DataType::Utf8, true).with_metadata(json_extension());
    assert!(crate::render::check(&json).is_ok());
}
