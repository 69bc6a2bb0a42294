//! pgoutput's parser and the transcoder take any bytes without a panic.
//!
//! The first byte says which type a text is to be of; the rest is a message,
//! whose values are such texts, and a text itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use source_svc::decode::transcode::Transcoder;
use source_svc::replicate::pgoutput::{Datum, Message, parse};
use source_svc::types::Wire;

fn wire(choice: u8) -> Wire {
    match choice % 15 {
        0 => Wire::Bool,
        1 => Wire::Int2,
        2 => Wire::Oid,
        3 => Wire::Float4,
        4 => Wire::Float8,
        5 => Wire::Numeric { precision: 38, scale: 19 },
        6 => Wire::Date,
        7 => Wire::Time,
        8 => Wire::Timestamp,
        9 => Wire::TimestampTz,
        10 => Wire::Uuid,
        11 => Wire::Bytea,
        12 => Wire::Text,
        13 => Wire::Jsonb,
        _ => Wire::List(Box::new(wire(choice / 15 % 14))),
    }
}

fuzz_target!(|input: &[u8]| {
    let [choice, data @ ..] = input else { return };
    let transcoder = Transcoder::new(wire(*choice), b',');
    let mut row = Vec::new();
    let _ = transcoder.cell(data, &mut row);
    if let Ok(Message::Insert { new, .. } | Message::Delete { old: new, .. }) = parse(data) {
        assert_eq!(new.iter().count(), new.len());
        for value in new.iter() {
            if let Datum::Text(text) = value {
                let _ = transcoder.cell(text, &mut row);
            }
        }
    }
});
