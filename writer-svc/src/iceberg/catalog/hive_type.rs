//! What a column's type is called in a catalog of Hive's kind. Engines that read
//! Iceberg go by its metadata; these words are for people and for lists of columns.

use iceberg::spec::{PrimitiveType, Type};

/// Hive's word for a type. What Hive has no type for is called by what holds it.
pub fn hive_type(kind: &Type) -> String {
    match kind {
        Type::Primitive(primitive) => primitive_type(primitive),
        Type::Struct(fields) => {
            let fields: Vec<String> = fields
                .fields()
                .iter()
                .map(|field| format!("{}:{}", field.name, hive_type(&field.field_type)))
                .collect();
            format!("struct<{}>", fields.join(","))
        }
        Type::List(list) => format!("array<{}>", hive_type(&list.element_field.field_type)),
        Type::Map(map) => format!(
            "map<{},{}>",
            hive_type(&map.key_field.field_type),
            hive_type(&map.value_field.field_type)
        ),
    }
}

fn primitive_type(kind: &PrimitiveType) -> String {
    use PrimitiveType as P;
    let word = match kind {
        P::Boolean => "boolean",
        P::Int => "int",
        P::Long => "bigint",
        P::Float => "float",
        P::Double => "double",
        P::Decimal { precision, scale } => return format!("decimal({precision},{scale})"),
        P::Date => "date",
        P::Time | P::String | P::Uuid => "string",
        P::Timestamp | P::Timestamptz | P::TimestampNs | P::TimestamptzNs => "timestamp",
        P::Fixed(_) | P::Binary => "binary",
    };
    word.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_a_word_of_hives() {
        for (kind, expected) in [
            (r#""long""#, "bigint"),
            (r#""decimal(38,10)""#, "decimal(38,10)"),
            (r#""uuid""#, "string"),
            (r#""timestamptz""#, "timestamp"),
            (r#""fixed[3]""#, "binary"),
            (
                r#"{"type": "list", "element-id": 2, "element-required": false,
                    "element": {"type": "map", "key-id": 3, "key": "string", "value-id": 4,
                                "value-required": false, "value": "date"}}"#,
                "array<map<string,date>>",
            ),
            (
                r#"{"type": "struct", "fields": [
                    {"id": 2, "name": "a", "required": false, "type": "int"},
                    {"id": 3, "name": "b", "required": true, "type": "time"}]}"#,
                "struct<a:int,b:string>",
            ),
        ] {
            let kind: Type = serde_json::from_str(kind).unwrap();
            assert_eq!(hive_type(&kind), expected);
        }
    }
}
