//! What is written is read back; torn and changed bytes are errors.

use super::*;

const SCHEMA: &str = r#"{"type": "record", "name": "r", "fields": [
    {"name": "a", "type": "long", "field-id": 1},
    {"name": "b", "type": ["null", "string"], "field-id": 2},
    {"name": "c", "type": {"type": "array", "items": "int"}, "field-id": 3},
    {"name": "d", "type": {"type": "fixed", "name": "f2", "size": 2, "logicalType": "uuid"}},
    {"name": "e", "type": ["null", "f2"], "field-id": 5}]}"#;

fn written(records: i64) -> Vec<u8> {
    let mut writer = Writer::new(SCHEMA, [("k", "v")]);
    for at in 0..records {
        writer.record(|encoder| {
            encoder.long(if at % 2 == 0 { i64::MIN + at } else { i64::MAX - at });
            encoder.optional((at % 3 > 0).then_some("é"), |encoder, text| {
                encoder.bytes(text.as_bytes());
            });
            encoder.array([-1, at].into_iter(), Encoder::long);
            encoder.raw(b"xy");
            encoder.optional(Some(b"zz"), |encoder, bytes| encoder.raw(bytes));
        });
    }
    writer.finish()
}

#[test]
fn records_come_back_by_their_field_ids() {
    let content = written(20_000);
    let mut reader = Reader::new(&content).unwrap();
    assert_eq!(reader.metadata["k"], b"v");
    let mut first = match reader.next() {
        Some(Ok(Value::Record(record))) => record,
        other => panic!("{other:?}"),
    };
    assert_eq!(first.take(1), Value::Long(i64::MIN));
    assert_eq!(first.take(2), Value::Null);
    assert_eq!(first.take(3), Value::Array(vec![Value::Long(-1), Value::Long(0)]));
    assert_eq!(first.take(5), Value::Bytes(b"zz".to_vec()));
    assert_eq!((first.take(5), first.take(4)), (Value::Null, Value::Null), "taken, unknown");
    assert_eq!(reader.by_ref().filter(|record| record.is_ok()).count(), 19_999);
    assert!(reader.next().is_none());
    assert_eq!(Reader::new(&written(0)).unwrap().count(), 0);
}

#[test]
fn torn_and_changed_bytes_are_errors_and_no_panic() {
    let content = written(100);
    for end in 0..content.len() {
        let whole = Reader::new(&content[..end]).is_ok_and(|reader| {
            let records: Vec<_> = reader.collect();
            records.len() == 100 && records.iter().all(Result::is_ok)
        });
        assert!(!whole, "{end} of {} bytes", content.len());
    }
    for at in 0..content.len() {
        let mut changed = content.clone();
        changed[at] ^= 0x55;
        if let Ok(reader) = Reader::new(&changed) {
            reader.take(1000).for_each(drop);
        }
    }
}
