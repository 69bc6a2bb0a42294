use arrow::compute::cast;
use arrow::datatypes::{DataType, TimeUnit};
use arrow::util::display::array_value_to_string;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::super::{Column, Decoder, OnUnrepresentable};
use super::*;
use crate::batch::{Batcher, Bounds};
use crate::types::ColumnType;

/// What a text becomes on its way through the decoder, as Arrow shows it;
/// "null!" where Arrow cannot hold it.
fn shown(wire: Wire, delimiter: u8, text: &str) -> Result<String, String> {
    let mut row = 1i16.to_be_bytes().to_vec();
    Transcoder::new(wire.clone(), delimiter).cell(text.as_bytes(), &mut row)?;
    let kind = ColumnType { word: String::new(), wire: wire.clone(), as_text: false };
    let column = Column { field: kind.field("c", true), wire, key: false };
    let decoder = Decoder::new(vec![column], OnUnrepresentable::Null, 1 << 20);
    let mut batcher = Batcher::new(decoder, Bounds { rows: 10, bytes: 1 << 20 });
    let mut copy = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    copy.extend(row);
    copy.extend((-1i16).to_be_bytes());
    batcher.push(copy).map_err(|e| e.to_string())?;
    assert!(batcher.next_batch().map_err(|e| e.to_string())?.is_none());
    let batch = batcher.finish().map_err(|e| e.to_string())?.unwrap().records;
    let (_, nulled) = batcher.decoder().unrepresentable().next().unwrap();
    match nulled {
        // A zone's name asks for a table of zones that is not built in.
        0 => {
            let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()));
            let array = match batch.column(0).data_type() {
                DataType::Timestamp(_, Some(_)) => cast(batch.column(0), &utc).unwrap(),
                _ => batch.column(0).clone(),
            };
            Ok(array_value_to_string(&array, 0).unwrap())
        }
        _ => Ok("null!".to_owned()),
    }
}

#[test]
fn a_text_becomes_the_value_it_stands_for() {
    let decimal = |precision, scale| Wire::Numeric { precision, scale };
    let cases: Vec<(Wire, &str, &str)> = vec![
        (Wire::Bool, "t", "true"),
        (Wire::Int2, "-32768", "-32768"),
        (Wire::Int4, "2147483647", "2147483647"),
        (Wire::Int8, "-9223372036854775808", "-9223372036854775808"),
        (Wire::Oid, "4294967295", "4294967295"),
        (Wire::Float4, "3.4028235e+38", "3.4028235e38"),
        (Wire::Float8, "-Infinity", "-inf"),
        (Wire::Float8, "NaN", "NaN"),
        (Wire::Float8, "5e-324", "5e-324"),
        (
            decimal(38, 10),
            "-1234567890123456789012345678.0123456789",
            "-1234567890123456789012345678.0123456789",
        ),
        (decimal(10, 2), "0.05", "0.05"),
        (decimal(10, 2), "0.00", "0.00"),
        (decimal(10, 5), "10000.00001", "10000.00001"),
        (decimal(18, 0), "-100000000", "-100000000"),
        (decimal(10, 2), "NaN", "null!"),
        (Wire::Date, "2000-02-29", "2000-02-29"),
        (Wire::Date, "1970-01-01", "1970-01-01"),
        (Wire::Date, "0001-01-01", "0001-01-01"),
        (Wire::Date, "0001-12-31 BC", "0000-12-31"),
        (Wire::Date, "4714-11-24 BC", "-4713-11-24"),
        (Wire::Date, "infinity", "null!"),
        (Wire::Time, "23:59:59.999999", "23:59:59.999999"),
        (Wire::Time, "00:00:00.5", "00:00:00.500"),
        (Wire::Time, "24:00:00", "null!"),
        (Wire::Timestamp, "1969-12-31 23:59:59.999999", "1969-12-31T23:59:59.999999"),
        (Wire::Timestamp, "0044-03-15 12:00:00 BC", "-0043-03-15T12:00:00"),
        (Wire::Timestamp, "-infinity", "null!"),
        (Wire::Timestamp, "294276-12-31 23:59:59.999999", "null!"),
        (Wire::TimestampTz, "2024-02-29 00:00:00+00", "2024-02-29T00:00:00Z"),
        (Wire::TimestampTz, "0044-03-15 12:00:00+00 BC", "-0043-03-15T12:00:00Z"),
        (Wire::Uuid, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "a0eebc999c0b4ef8bb6d6bb9bd380a11"),
        (Wire::Bytea, "\\x00ff", "00ff"),
        (Wire::Bytea, "\\x", ""),
        (Wire::Text, "", ""),
        (Wire::Jsonb, "{\"a\": 1}", "{\"a\": 1}"),
    ];
    for (wire, text, expected) in cases {
        assert_eq!(shown(wire.clone(), b',', text), Ok(expected.to_owned()), "{wire:?} {text}");
    }
}

#[test]
fn an_array_is_taken_apart_as_postgresql_puts_it_together() {
    let list = |item: Wire| Wire::List(Box::new(item));
    let cases = [
        (list(Wire::Int4), "{}", "[]"),
        (list(Wire::Int4), "{1,NULL,-3}", "[1, , -3]"),
        (list(Wire::Text), r#"{a,"b c","NULL",NULL,"","q\"\\"}"#, r#"[a, b c, NULL, , , q"\]"#),
        (list(Wire::Text), r#"{"{1,2}","a,b"}"#, "[{1,2}, a,b]"),
        (list(Wire::Bytea), r#"{"\\x00ff"}"#, "[00ff]"),
        (list(Wire::Timestamp), r#"{"2000-01-01 00:00:00"}"#, "[2000-01-01T00:00:00]"),
        (list(Wire::Int4), "{{1,2},{3,4}}", "null!"),
        (list(Wire::Int4), "[0:1]={1,2}", "null!"),
        (list(Wire::Int4), "[-1:0][2:3]={{1,2},{3,4}}", "null!"),
    ];
    for (wire, text, expected) in cases {
        assert_eq!(shown(wire, b',', text), Ok(expected.to_owned()), "{text}");
    }
    let boxes = "{(1,1),(0,0);(3,3),(2,2)}";
    let expected = "[(1,1),(0,0), (3,3),(2,2)]".to_owned();
    assert_eq!(shown(list(Wire::Text), b';', boxes), Ok(expected));
}

#[test]
fn what_is_no_value_of_its_type_is_said() {
    let list = |item: Wire| Wire::List(Box::new(item));
    for (wire, text) in [
        (Wire::Bool, "true"),
        (Wire::Int2, "32768"),
        (Wire::Int4, ""),
        (Wire::Numeric { precision: 5, scale: 2 }, "1e5"),
        (Wire::Numeric { precision: 5, scale: 2 }, ""),
        (Wire::Date, "2000-13-01"),
        (Wire::Date, "01/02/2000"),
        (Wire::Time, "1:00"),
        (Wire::Timestamp, "2000-01-01"),
        (Wire::TimestampTz, "2000-01-01 00:00:00+02"),
        (Wire::Uuid, "a0eebc99"),
        (Wire::Bytea, "abc"),
        (Wire::Bytea, "\\xg0"),
        (list(Wire::Int4), "1,2"),
        (list(Wire::Int4), "{1,}"),
        (list(Wire::Int4), "{1,x}"),
        (list(Wire::Text), "{\"a}"),
        (list(Wire::Text), "{\"a\"b}"),
    ] {
        assert!(shown(wire.clone(), b',', text).is_err(), "{wire:?} {text}");
    }
}

#[test]
fn any_text_is_taken_without_a_panic() {
    const LETTERS: &[u8] = b"0123456789-+:. {}[]=,\"\\xNULBCaftTinity\xff";
    let mut random = StdRng::seed_from_u64(2);
    let scalars = || {
        vec![
            Wire::Bool,
            Wire::Int2,
            Wire::Oid,
            Wire::Float8,
            Wire::Numeric { precision: 38, scale: 19 },
            Wire::Date,
            Wire::Time,
            Wire::Timestamp,
            Wire::TimestampTz,
            Wire::Uuid,
            Wire::Bytea,
            Wire::Text,
            Wire::Jsonb,
        ]
    };
    let lists = scalars().into_iter().map(|wire| Wire::List(Box::new(wire)));
    let wires: Vec<Wire> = scalars().into_iter().chain(lists).collect();
    let mut row = Vec::new();
    for round in 0..40_000 {
        let mut text: Vec<u8> = match round % 4 {
            0 => b"2000-01-01 00:00:00.000001+00 BC".to_vec(),
            1 => b"[0:1]={1,\"2\"}".to_vec(),
            2 => b"-12345.678".to_vec(),
            _ => Vec::new(),
        };
        for _ in 0..random.random_range(0..6) {
            let letter = LETTERS[random.random_range(0..LETTERS.len())];
            text.insert(random.random_range(0..=text.len()), letter);
        }
        for wire in &wires {
            row.clear();
            let _ = Transcoder::new(wire.clone(), b',').cell(&text, &mut row);
        }
    }
}
