use arrow::array::{Array, AsArray};
use arrow::datatypes::{
    DataType, Date32Type, Decimal64Type, Field, Float32Type, Float64Type, Int32Type, Int64Type,
    Time64MicrosecondType, TimeUnit, TimestampMicrosecondType,
};

use super::*;
use crate::batch::{Batcher, Bounds};
use crate::types::ColumnType;

const LIMIT: u64 = 1 << 20;
const BOUNDS: Bounds = Bounds { rows: 1000, bytes: 1 << 16 };

fn column(name: &str, wire: Wire) -> Column {
    let kind = ColumnType { word: String::new(), wire: wire.clone(), as_text: false };
    Column { field: kind.field(name, true), wire, key: name == "id" }
}

fn header() -> Vec<u8> {
    b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec()
}

fn row(cells: &[Option<Vec<u8>>]) -> Vec<u8> {
    let mut bytes = (cells.len() as i16).to_be_bytes().to_vec();
    for cell in cells {
        match cell {
            None => bytes.extend((-1i32).to_be_bytes()),
            Some(cell) => {
                bytes.extend((cell.len() as i32).to_be_bytes());
                bytes.extend(cell);
            }
        }
    }
    bytes
}

fn copy(rows: &[Vec<Option<Vec<u8>>>]) -> Vec<u8> {
    let mut bytes = header();
    rows.iter().for_each(|cells| bytes.extend(row(cells)));
    bytes.extend((-1i16).to_be_bytes());
    bytes
}

/// Every batch of a whole COPY, pushed in pieces of `piece` bytes.
fn read(
    columns: Vec<Column>,
    policy: OnUnrepresentable,
    bounds: Bounds,
    bytes: &[u8],
    piece: usize,
) -> Result<(Vec<crate::batch::Batch>, Vec<u64>), DecodeError> {
    let mut batcher = Batcher::new(Decoder::new(columns, policy, LIMIT), bounds);
    let mut batches = Vec::new();
    for piece in bytes.chunks(piece) {
        batcher.push(piece.to_vec())?;
        while let Some(batch) = batcher.next_batch()? {
            batches.push(batch);
        }
    }
    batches.extend(batcher.finish()?);
    let counts = batcher.decoder().unrepresentable().map(|(_, count)| count).collect();
    Ok((batches, counts))
}

/// One column's array and how many of its values became null.
fn one(wire: Wire, cells: &[Option<Vec<u8>>]) -> (arrow::array::ArrayRef, u64) {
    let rows: Vec<_> = cells.iter().map(|cell| vec![cell.clone()]).collect();
    let columns = vec![column("c", wire)];
    let (batches, counts) =
        read(columns, OnUnrepresentable::Null, BOUNDS, &copy(&rows), usize::MAX).unwrap();
    (batches[0].records.column(0).clone(), counts[0])
}

fn some(bytes: impl AsRef<[u8]>) -> Option<Vec<u8>> {
    Some(bytes.as_ref().to_vec())
}

fn array_of(element_type: u32, lower: i32, elements: &[Option<Vec<u8>>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [1, 1, element_type as i32, elements.len() as i32, lower] {
        bytes.extend(word.to_be_bytes());
    }
    bytes.extend(&row(elements)[2..]);
    bytes
}

#[test]
fn numbers_arrive_to_the_bit() {
    let (array, _) = one(Wire::Bool, &[some([1]), some([0]), None]);
    assert_eq!(array.as_boolean().iter().collect::<Vec<_>>(), [Some(true), Some(false), None]);
    let (array, _) = one(Wire::Int2, &[some(i16::MIN.to_be_bytes()), None]);
    assert_eq!(array.as_primitive::<Int32Type>().iter().collect::<Vec<_>>(), [Some(-32768), None]);
    let (array, _) = one(Wire::Int4, &[some(i32::MAX.to_be_bytes())]);
    assert_eq!(array.as_primitive::<Int32Type>().value(0), i32::MAX);
    let (array, _) = one(Wire::Int8, &[some(i64::MIN.to_be_bytes())]);
    assert_eq!(array.as_primitive::<Int64Type>().value(0), i64::MIN);
    let (array, _) = one(Wire::Oid, &[some(u32::MAX.to_be_bytes())]);
    assert_eq!(array.as_primitive::<Int64Type>().value(0), i64::from(u32::MAX));
    let (array, _) = one(Wire::Float4, &[some((-0.0f32).to_be_bytes())]);
    assert_eq!(array.as_primitive::<Float32Type>().value(0).to_bits(), (-0.0f32).to_bits());
    let floats = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MIN_POSITIVE, -0.0];
    let cells: Vec<_> = floats.iter().map(|value| some(value.to_be_bytes())).collect();
    let (array, nulled) = one(Wire::Float8, &cells);
    let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(array.as_primitive::<Float64Type>().values()), bits(&floats));
    assert_eq!((nulled, array.null_count()), (0, 0));
}

#[test]
fn dates_and_times_have_edges() {
    let date = |days: i32| some(days.to_be_bytes());
    let (array, nulled) = one(
        Wire::Date,
        &[date(0), date(-10_957), date(i32::MAX), date(i32::MIN), date(i32::MAX - 1)],
    );
    let days: Vec<_> = array.as_primitive::<Date32Type>().iter().collect();
    assert_eq!(days, [Some(10_957), Some(0), None, None, None]);
    assert_eq!(nulled, 3);

    let micros = |value: i64| some(value.to_be_bytes());
    let (array, nulled) = one(Wire::Time, &[micros(0), micros(DAY - 1), micros(DAY)]);
    let times: Vec<_> = array.as_primitive::<Time64MicrosecondType>().iter().collect();
    assert_eq!((times, nulled), (vec![Some(0), Some(DAY - 1), None], 1));

    // 294276-12-31 23:59:59.999999, PostgreSQL's last, is past i64 since 1970.
    let last = 9_223_371_331_199_999_999;
    // 4714-11-24 BC, PostgreSQL's first.
    let first = -211_813_488_000_000_000;
    for wire in [Wire::Timestamp, Wire::TimestampTz] {
        let cells = [micros(0), micros(i64::MAX), micros(i64::MIN), micros(last), micros(first)];
        let (array, nulled) = one(wire, &cells);
        let times: Vec<_> = array.as_primitive::<TimestampMicrosecondType>().iter().collect();
        let epoch = 946_684_800_000_000;
        assert_eq!(times, [Some(epoch), None, None, None, Some(first + epoch)]);
        assert_eq!(nulled, 3);
    }
}

const DAY: i64 = 86_400_000_000;

#[test]
fn texts_and_bytes_arrive_as_they_are() {
    let text = "a\nb\t\"\\'\u{1F600}";
    let (array, _) = one(Wire::Text, &[some(text), some(""), None]);
    assert_eq!(array.as_string::<i32>().iter().collect::<Vec<_>>(), [Some(text), Some(""), None]);
    let (array, _) = one(Wire::Json, &[some("{ \"a\" : 1}")]);
    assert_eq!(array.as_string::<i32>().value(0), "{ \"a\" : 1}");
    let (array, _) = one(Wire::Jsonb, &[some("\u{1}{\"a\": 1}")]);
    assert_eq!(array.as_string::<i32>().value(0), "{\"a\": 1}");
    let (array, _) = one(Wire::Bytea, &[some([0, 255, 0]), some([])]);
    assert_eq!(array.as_binary::<i32>().value(0), [0, 255, 0]);
    let (array, _) = one(Wire::Uuid, &[some([7; 16]), None]);
    assert_eq!((array.as_fixed_size_binary().value(0), array.null_count()), (&[7; 16][..], 1));
}

#[test]
fn lists_hold_nulls_and_nothing_of_other_shapes() {
    let wire = Wire::List(Box::new(Wire::Date));
    let day = |days: i32| some(days.to_be_bytes());
    let empty = some([0; 12]);
    let flat = some(array_of(1082, 1, &[day(1), None, day(i32::MAX)]));
    let shifted = some(array_of(1082, 0, &[day(1)]));
    let mut square = Vec::new();
    [2, 0, 1082, 1, 1, 1, 1, 4, 0].iter().for_each(|w: &i32| square.extend(w.to_be_bytes()));
    let (array, nulled) = one(wire, &[empty, None, flat, shifted, Some(square)]);
    let lists = array.as_list::<i32>();
    // An infinite element, an array that starts at 0, one of two dimensions.
    assert_eq!(nulled, 3);
    assert_eq!(lists.value(0).len(), 0);
    let valid: Vec<_> = (0..5).map(|index| lists.is_valid(index)).collect();
    assert_eq!(valid, [true, false, true, false, false]);
    let items = lists.value(2);
    let items: Vec<_> = items.as_primitive::<Date32Type>().iter().collect();
    assert_eq!(items, [Some(10_958), None, None]);
}

#[test]
fn decimals_keep_every_digit() {
    let wire = Wire::Numeric { precision: 10, scale: 2 };
    // 2 groups, weight 0, positive, scale 2: 1234.56
    let value = [0, 2, 0, 0, 0, 0, 0, 2, 4, 210, 21, 224];
    let nan = [0, 0, 0, 0, 0xC0, 0, 0, 0];
    let (array, nulled) = one(wire, &[some(value), some(nan), None]);
    let values: Vec<_> = array.as_primitive::<Decimal64Type>().iter().collect();
    assert_eq!((values, nulled), (vec![Some(123_456), None, None], 1));
    assert_eq!(array.data_type(), &DataType::Decimal64(10, 2));
}

#[test]
fn the_policy_fail_names_column_key_and_value() {
    let columns = vec![column("id", Wire::Int4), column("at", Wire::Timestamp)];
    let rows = [vec![some(42i32.to_be_bytes()), some(i64::MAX.to_be_bytes())]];
    let error = read(columns, OnUnrepresentable::Fail, BOUNDS, &copy(&rows), 7).err().unwrap();
    assert_eq!(
        error,
        DecodeError::Unrepresentable {
            key: "id = 42".to_owned(),
            column: "at".to_owned(),
            value: "infinity".to_owned(),
        }
    );
}

#[test]
fn bad_rows_are_named_by_their_key() {
    let columns = || vec![column("id", Wire::Text), column("t", Wire::Text)];
    let rows = [vec![some("a"), some("x")], vec![some("b"), some([0xff])]];
    let error = read(columns(), OnUnrepresentable::Null, BOUNDS, &copy(&rows), 5).err().unwrap();
    let expected = DecodeError::BadData {
        key: "id = b".to_owned(),
        what: "column t: a text that is not valid UTF-8".to_owned(),
    };
    assert_eq!(error, expected);
    let large = [vec![some("big"), some(vec![b'x'; LIMIT as usize])]];
    for piece in [1000, usize::MAX] {
        let bytes = copy(&large);
        let error = read(columns(), OnUnrepresentable::Null, BOUNDS, &bytes, piece).err().unwrap();
        let expected = DecodeError::RowTooLarge {
            key: "id = big".to_owned(),
            bytes: LIMIT + 13,
            limit: LIMIT,
        };
        assert_eq!(error, expected);
    }
}

#[test]
fn only_a_whole_copy_is_complete() {
    let columns = || vec![column("id", Wire::Int4)];
    let rows: Vec<_> = (0..700i32).map(|n| vec![some(n.to_be_bytes())]).collect();
    let bytes = copy(&rows);
    for piece in [1, 2, 3, 11, 18, 19, 20, 4096, usize::MAX] {
        let (batches, _) = read(columns(), OnUnrepresentable::Null, BOUNDS, &bytes, piece).unwrap();
        let rows: usize = batches.iter().map(|batch| batch.records.num_rows()).sum();
        assert_eq!(rows, 700, "{piece}");
        let values = batches[0].records.column(0).as_primitive::<Int32Type>();
        assert!(values.values().iter().copied().eq(0..700));
    }
    for cut in 0..bytes.len() {
        let cut = read(columns(), OnUnrepresentable::Null, BOUNDS, &bytes[..cut], usize::MAX);
        assert!(matches!(cut, Err(DecodeError::BadData { .. })));
    }
    for more in [&b"x"[..], &bytes[..], &[0xff, 0xff]] {
        let bytes = [&bytes[..], more].concat();
        assert!(read(columns(), OnUnrepresentable::Null, BOUNDS, &bytes, usize::MAX).is_err());
    }
}

#[test]
fn a_large_row_travels_alone_and_batches_keep_their_bounds() {
    let bounds = Bounds { rows: 100, bytes: 10_000 };
    let columns = vec![column("id", Wire::Int4), column("t", Wire::Text)];
    let size = |n: i32| if n == 150 { 50_000 } else { 20 };
    let rows: Vec<_> =
        (0..400i32).map(|n| vec![some(n.to_be_bytes()), some(vec![b'x'; size(n)])]).collect();
    let (batches, _) = read(columns, OnUnrepresentable::Null, bounds, &copy(&rows), 4096).unwrap();
    let counts: Vec<_> = batches.iter().map(|batch| batch.records.num_rows()).collect();
    assert_eq!(counts, [100, 50, 1, 100, 100, 49]);
    assert_eq!(batches[2].key.as_deref(), Some("id = 150"));
    assert!(batches.iter().all(|batch| batch.records.num_rows() == 1 || batch.bytes <= 10_000));
}

#[test]
fn a_table_without_columns_has_its_rows_counted() {
    let rows = vec![vec![]; 300];
    let (batches, _) =
        read(Vec::new(), OnUnrepresentable::Null, BOUNDS, &copy(&rows), usize::MAX).unwrap();
    assert_eq!(batches.len(), 1);
    assert_eq!((batches[0].records.num_rows(), batches[0].records.num_columns()), (300, 0));
}

/// A deterministic stream of numbers (xorshift64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }
}

fn every_wire() -> Vec<Column> {
    let wires = [
        Wire::Int4,
        Wire::Bool,
        Wire::Int2,
        Wire::Int8,
        Wire::Oid,
        Wire::Float4,
        Wire::Float8,
        Wire::Numeric { precision: 38, scale: 10 },
        Wire::Date,
        Wire::Time,
        Wire::Timestamp,
        Wire::TimestampTz,
        Wire::Uuid,
        Wire::Bytea,
        Wire::Text,
        Wire::Json,
        Wire::Jsonb,
        Wire::List(Box::new(Wire::Int4)),
        Wire::List(Box::new(Wire::Text)),
        Wire::List(Box::new(Wire::Numeric { precision: 5, scale: 5 })),
    ];
    let name = |index: usize| if index == 0 { "id".to_owned() } else { format!("c{index}") };
    wires.into_iter().enumerate().map(|(n, wire)| column(&name(n), wire)).collect()
}

fn every_row() -> Vec<Option<Vec<u8>>> {
    let numeric = [0, 2, 0, 0, 0, 0, 0, 2, 4, 210, 21, 224].to_vec();
    vec![
        some(7i32.to_be_bytes()),
        some([1]),
        some(8i16.to_be_bytes()),
        some(9i64.to_be_bytes()),
        some(10u32.to_be_bytes()),
        some(1.5f32.to_be_bytes()),
        some(2.5f64.to_be_bytes()),
        Some(numeric.clone()),
        some(11i32.to_be_bytes()),
        some(12i64.to_be_bytes()),
        some(13i64.to_be_bytes()),
        some(14i64.to_be_bytes()),
        some([15; 16]),
        some([0, 1, 2]),
        some("text é"),
        some("{}"),
        some("\u{1}[]"),
        some(array_of(23, 1, &[some(1i32.to_be_bytes()), None])),
        some(array_of(25, 1, &[some("a"), some(""), None])),
        some(array_of(1700, 1, &[None, Some(numeric)])),
    ]
}

#[test]
fn no_bytes_whatever_make_the_decoder_panic() {
    let whole = copy(&[every_row(), vec![None; every_wire().len()], every_row()]);
    let columns = every_wire();
    let mut numbers = Numbers(0x9E37_79B9_7F4A_7C15);
    let (mut good, mut bad) = (0, 0);
    for round in 0..200_000 {
        let mut bytes = whole.clone();
        for _ in 0..=numbers.below(3) {
            let at = numbers.below(bytes.len());
            match numbers.below(5) {
                0 => bytes[at] ^= 1 << numbers.below(8),
                1 => bytes[at] = [0, 0x7f, 0x80, 0xff][numbers.below(4)],
                2 => bytes.truncate(at),
                3 => {
                    bytes.remove(at);
                }
                _ => bytes.insert(at, numbers.below(256) as u8),
            }
            if bytes.is_empty() {
                break;
            }
        }
        let policy = if round % 2 == 0 { OnUnrepresentable::Null } else { OnUnrepresentable::Fail };
        let piece = [usize::MAX, 1 + numbers.below(100)][numbers.below(2)];
        match read(columns.clone(), policy, BOUNDS, &bytes, piece) {
            Ok((batches, _)) => {
                good += batches.iter().map(|batch| batch.records.num_rows()).sum::<usize>();
            }
            Err(_) => bad += 1,
        }
    }
    assert!(good > 1000 && bad > 1000, "{good} rows, {bad} errors");
}

#[test]
fn a_timestamp_with_zone_is_in_utc() {
    let (array, _) = one(Wire::TimestampTz, &[None]);
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    assert_eq!(array.data_type(), &utc);
    let list = DataType::List(std::sync::Arc::new(Field::new_list_field(DataType::Utf8, true)));
    let (array, _) = one(Wire::List(Box::new(Wire::Text)), &[None]);
    assert!(array.data_type().equals_datatype(&list));
}
