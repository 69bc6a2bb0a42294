//! The Avro schema of a manifest's entries, as the specification has it.

use iceberg::spec::{FormatVersion, PrimitiveType, StructType, Type};
use serde_json::{Value as Json, json};

/// Of entries whose partition values are those of `partition`.
pub fn entry_schema(partition: &StructType, version: FormatVersion) -> Result<String, String> {
    let mut names = Vec::new();
    let mut parts = Vec::new();
    for field in partition.fields() {
        let Type::Primitive(kind) = field.field_type.as_ref() else {
            return Err(format!("the partition value {} is no single value", field.name));
        };
        let mut part =
            optional(field.id, &avro_name(&field.name), primitive(kind, field.id, &mut names)?);
        if part["name"] != field.name.as_str() {
            part["iceberg-field-name"] = field.name.as_str().into();
        }
        parts.push(part);
    }
    let partition = json!({"type": "record", "name": "r102", "fields": parts});
    let mut file = vec![
        required(134, "content", json!("int")),
        required(100, "file_path", json!("string")),
        required(101, "file_format", json!("string")),
        required(102, "partition", partition),
        required(103, "record_count", json!("long")),
        required(104, "file_size_in_bytes", json!("long")),
        optional(108, "column_sizes", map(117, 118, "long")),
        optional(109, "value_counts", map(119, 120, "long")),
        optional(110, "null_value_counts", map(121, 122, "long")),
        optional(137, "nan_value_counts", map(138, 139, "long")),
        optional(125, "lower_bounds", map(126, 127, "bytes")),
        optional(128, "upper_bounds", map(129, 130, "bytes")),
        optional(131, "key_metadata", json!("bytes")),
        optional(132, "split_offsets", list(133, "long")),
        optional(135, "equality_ids", list(136, "int")),
        optional(140, "sort_order_id", json!("int")),
        optional(143, "referenced_data_file", json!("string")),
    ];
    if version >= FormatVersion::V3 {
        file.extend([
            optional(142, "first_row_id", json!("long")),
            optional(144, "content_offset", json!("long")),
            optional(145, "content_size_in_bytes", json!("long")),
        ]);
    }
    let entry = json!({"type": "record", "name": "manifest_entry", "fields": [
        required(0, "status", json!("int")),
        optional(1, "snapshot_id", json!("long")),
        optional(3, "sequence_number", json!("long")),
        optional(4, "file_sequence_number", json!("long")),
        required(2, "data_file", json!({"type": "record", "name": "r2", "fields": file})),
    ]});
    Ok(entry.to_string())
}

fn required(id: i32, name: &str, kind: Json) -> Json {
    json!({"name": name, "type": kind, "field-id": id})
}

fn optional(id: i32, name: &str, kind: Json) -> Json {
    json!({"name": name, "type": ["null", kind], "default": null, "field-id": id})
}

/// A map from field ids, which Avro's own maps cannot have as keys.
fn map(key: i32, value: i32, kind: &str) -> Json {
    let fields = [required(key, "key", json!("int")), required(value, "value", json!(kind))];
    let item = json!({"type": "record", "name": format!("k{key}_v{value}"), "fields": fields});
    json!({"type": "array", "items": item, "logicalType": "map"})
}

fn list(element: i32, kind: &str) -> Json {
    json!({"type": "array", "items": kind, "element-id": element})
}

/// Types with a name have one of their own wherever they are used: Avro writes
/// a name out once, and PyIceberg does not find it the next time.
fn primitive(kind: &PrimitiveType, id: i32, names: &mut Vec<String>) -> Result<Json, String> {
    let mut unique = |name: String| {
        let name = if names.contains(&name) { format!("{name}_{id}") } else { name };
        names.push(name.clone());
        name
    };
    Ok(match kind {
        PrimitiveType::Boolean => json!("boolean"),
        PrimitiveType::Int => json!("int"),
        PrimitiveType::Long => json!("long"),
        PrimitiveType::Float => json!("float"),
        PrimitiveType::Double => json!("double"),
        PrimitiveType::Date => json!({"type": "int", "logicalType": "date"}),
        PrimitiveType::Time => json!({"type": "long", "logicalType": "time-micros"}),
        PrimitiveType::Timestamp => timestamp("timestamp-micros", false),
        PrimitiveType::Timestamptz => timestamp("timestamp-micros", true),
        PrimitiveType::TimestampNs => timestamp("timestamp-nanos", false),
        PrimitiveType::TimestamptzNs => timestamp("timestamp-nanos", true),
        PrimitiveType::String => json!("string"),
        PrimitiveType::Binary => json!("bytes"),
        PrimitiveType::Uuid => {
            let name = unique("uuid_fixed".to_owned());
            json!({"type": "fixed", "name": name, "size": 16, "logicalType": "uuid"})
        }
        PrimitiveType::Fixed(size) => {
            let name = unique(format!("fixed_{size}"));
            json!({"type": "fixed", "name": name, "size": size})
        }
        PrimitiveType::Decimal { precision, scale } => {
            let name = unique(format!("decimal_{precision}_{scale}"));
            let size = Type::decimal_required_bytes(*precision).map_err(|e| e.to_string())?;
            json!({"type": "fixed", "name": name, "size": size,
                "logicalType": "decimal", "precision": precision, "scale": scale})
        }
    })
}

fn timestamp(unit: &str, is_utc: bool) -> Json {
    json!({"type": "long", "logicalType": unit, "adjust-to-utc": is_utc})
}

/// Avro's names are of fewer characters: the rest as Java's library writes it.
fn avro_name(name: &str) -> String {
    let mut made = String::with_capacity(name.len());
    for (at, c) in name.chars().enumerate() {
        match c {
            '_' | 'a'..='z' | 'A'..='Z' => made.push(c),
            '0'..='9' if at > 0 => made.push(c),
            '0'..='9' => made.extend(['_', c]),
            _ => made.push_str(&format!("_x{:X}", u32::from(c))),
        }
    }
    made
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use iceberg::spec::NestedField;

    use super::*;

    #[test]
    fn names_that_avro_does_not_have_are_written_otherwise() {
        for (name, avro) in [("a_1", "a_1"), ("1a", "_1a"), ("é b", "_xE9_x20b")] {
            assert_eq!(avro_name(name), avro);
        }
    }

    #[test]
    fn no_type_is_known_by_its_name_only() {
        let kind = Type::Primitive(PrimitiveType::Decimal { precision: 9, scale: 2 });
        let fields =
            ["a", "b"].map(|name| Arc::new(NestedField::optional(1000, name, kind.clone())));
        let schema = entry_schema(&StructType::new(fields.into()), FormatVersion::V2).unwrap();
        assert_eq!(schema.matches(r#""size":4"#).count(), 2);
        assert_eq!(schema.matches(r#""name":"decimal_9_2""#).count(), 1);
        assert_eq!(schema.matches(r#""name":"decimal_9_2_1000""#).count(), 1);
        assert!(!schema.contains("first_row_id"));
    }
}
