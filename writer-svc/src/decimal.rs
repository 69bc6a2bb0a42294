//! Decimals of up to 18 digits may come in 64 bits instead of 128, half the
//! bytes to carry and no conversion on the way into Parquet's INT32 and INT64.
//!
//! How they came is nobody's business further on: Parquet's types are the same
//! for both, and what else is said about a file or a table says Decimal128,
//! which readers of all ages know.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};

/// The schema that files and tables declare for batches of `arriving`.
pub fn declared(arriving: &Schema) -> SchemaRef {
    let fields = arriving.fields().iter().map(declared_field);
    Arc::new(Schema::new_with_metadata(fields.collect::<Vec<_>>(), arriving.metadata().clone()))
}

/// The schema of batches whose columns have the decimals of `arriving` and all
/// else of `declared`.
pub fn as_arriving(declared: &Schema, arriving: &Schema) -> SchemaRef {
    let pairs = declared.fields().iter().zip(arriving.fields());
    let fields = pairs.map(|(declared, arriving)| arriving_field(declared, arriving));
    Arc::new(Schema::new_with_metadata(fields.collect::<Vec<_>>(), declared.metadata().clone()))
}

fn declared_field(field: &FieldRef) -> FieldRef {
    match field.data_type() {
        DataType::Decimal64(precision, scale) => {
            with_type(field, DataType::Decimal128(*precision, *scale))
        }
        DataType::List(item) => with_type(field, DataType::List(declared_field(item))),
        _ => Arc::clone(field),
    }
}

fn arriving_field(declared: &FieldRef, arriving: &FieldRef) -> FieldRef {
    match (declared.data_type(), arriving.data_type()) {
        (DataType::Decimal128(..), narrow @ DataType::Decimal64(..))
            if declared_field(arriving).data_type() == declared.data_type() =>
        {
            with_type(declared, narrow.clone())
        }
        (DataType::List(declared_item), DataType::List(item)) => {
            with_type(declared, DataType::List(arriving_field(declared_item, item)))
        }
        _ => Arc::clone(declared),
    }
}

fn with_type(field: &FieldRef, data_type: DataType) -> FieldRef {
    Arc::new(Field::clone(field).with_data_type(data_type))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(decimal: DataType, item: &str) -> Schema {
        let list = DataType::List(Arc::new(Field::new(item, decimal.clone(), true)));
        Schema::new(vec![
            Field::new("d", decimal, true),
            Field::new("wide", DataType::Decimal128(18, 2), true),
            Field::new("l", list, true),
            Field::new("n", DataType::Int64, true),
        ])
    }

    #[test]
    fn how_decimals_came_is_not_declared_and_not_forgotten() {
        let narrow = schema(DataType::Decimal64(10, 2), "item");
        let wide = declared(&narrow);
        assert_eq!(*wide, schema(DataType::Decimal128(10, 2), "item"));
        // The destination has its own name for a list's items.
        let table = schema(DataType::Decimal128(10, 2), "element");
        assert_eq!(*as_arriving(&table, &narrow), schema(DataType::Decimal64(10, 2), "element"));
        assert_eq!(*as_arriving(&table, &wide), table);
    }

    #[test]
    fn another_precision_stays_another_type() {
        let arriving = schema(DataType::Decimal64(10, 2), "item");
        let table = schema(DataType::Decimal128(12, 2), "item");
        assert_eq!(*as_arriving(&table, &arriving), table);
    }
}
