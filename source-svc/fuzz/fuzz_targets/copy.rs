//! The COPY decoder takes any bytes, cut anywhere, without a panic.
//!
//! The first byte says how the rest is cut, the next few which columns there
//! are; what follows is COPY's binary form, after a header that is right, so
//! that mutations reach the rows.
#![no_main]

use libfuzzer_sys::fuzz_target;
use source_svc::batch::{Batcher, Bounds};
use source_svc::decode::{Column, Decoder, OnUnrepresentable};
use source_svc::types::{ColumnType, Wire};

const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

fn wire(choice: u8) -> Wire {
    match choice % 18 {
        0 => Wire::Bool,
        1 => Wire::Int2,
        2 => Wire::Int4,
        3 => Wire::Int8,
        4 => Wire::Oid,
        5 => Wire::Float4,
        6 => Wire::Float8,
        7 => Wire::Numeric { precision: 38, scale: 19 },
        8 => Wire::Date,
        9 => Wire::Time,
        10 => Wire::Timestamp,
        11 => Wire::TimestampTz,
        12 => Wire::Uuid,
        13 => Wire::Bytea,
        14 => Wire::Text,
        15 => Wire::Json,
        16 => Wire::Jsonb,
        _ => Wire::List(Box::new(wire(choice / 18 % 17))),
    }
}

fuzz_target!(|input: &[u8]| {
    let [cut, count, rest @ ..] = input else { return };
    let count = usize::from(*count % 5).min(rest.len());
    let (choices, data) = rest.split_at(count);
    let columns = choices.iter().enumerate().map(|(index, choice)| {
        let wire = wire(*choice);
        let kind = ColumnType { word: String::new(), wire: wire.clone(), as_text: false };
        Column { field: kind.field(&format!("c{index}"), true), wire, key: index == 0 }
    });
    let policy = if cut % 2 == 0 { OnUnrepresentable::Null } else { OnUnrepresentable::Fail };
    let decoder = Decoder::new(columns.collect(), policy, 1 << 16);
    let mut batcher = Batcher::new(decoder, Bounds { rows: 3, bytes: 100 });
    let pieces = std::iter::once(HEADER).chain(data.chunks(usize::from(*cut).max(1)));
    for piece in pieces {
        if batcher.push(piece.to_vec()).is_err() {
            return;
        }
        loop {
            match batcher.next_batch() {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
    let _ = batcher.finish();
});
