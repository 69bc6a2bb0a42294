//! A table as a metastore describes it, and its description after a commit.
//!
//! Java's HiveCatalog and PyIceberg look for the same parameters. What others have
//! set in a description (owner, privileges, parameters, …) stays as it is.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use iceberg::spec::TableMetadata;
use thrift::protocol::TType;

use super::super::TableName;
use super::super::hive_type::hive_type;
use super::thrift::{Fields, Value};
use crate::error::WriterError;

const TABLE_TYPE: &str = "table_type";
const ICEBERG: &str = "ICEBERG";
const METADATA_LOCATION: &str = "metadata_location";
const PREVIOUS: &str = "previous_metadata_location";

// Ids of a Table's fields.
const NAME: i16 = 1;
const DATABASE: i16 = 2;
const OWNER: i16 = 3;
const CREATED: i16 = 4;
const RETENTION: i16 = 6;
const STORAGE: i16 = 7;
const PARTITION_KEYS: i16 = 8;
const PARAMETERS: i16 = 9;
const KIND: i16 = 12;

/// What Hive reads and writes a table of Iceberg with, where it has Iceberg's jar.
const INPUT_FORMAT: &str = "org.apache.iceberg.mr.hive.HiveIcebergInputFormat";
const OUTPUT_FORMAT: &str = "org.apache.iceberg.mr.hive.HiveIcebergOutputFormat";
const SERDE: &str = "org.apache.iceberg.mr.hive.HiveIcebergSerDe";
const STORAGE_HANDLER: &str = "org.apache.iceberg.mr.hive.HiveIcebergStorageHandler";

/// Of a snapshot's summary, what a metastore keeps for all engines.
const STATISTICS: [(&str, &str); 3] = [
    ("numRows", "total-records"),
    ("numFiles", "total-data-files"),
    ("totalSize", "total-files-size"),
];

/// What a metastore says of an Iceberg table.
#[derive(Clone, Debug)]
pub struct Described {
    table: Fields,
    /// Of the current metadata file.
    pub location: String,
}

impl Described {
    /// From the answer of `get_table`; refuses what is no Iceberg table.
    pub fn parse(name: &TableName, table: Option<Value>) -> Result<Self, WriterError> {
        let Some(Value::Struct(table)) = table else {
            return Err(WriterError::BadTable {
                table: name.to_string(),
                problem: "the metastore answers with no table".into(),
            });
        };
        let parameters = parameters(&table);
        let location = parameters.get(METADATA_LOCATION);
        let (Some(location), true) = (location, is_iceberg(&table)) else {
            let kind = table.get(&KIND).and_then(Value::as_text);
            let kind = parameters.get(TABLE_TYPE).cloned().or(kind).unwrap_or_default();
            return Err(WriterError::invalid_table(
                format!(
                    "the metastore has a table {name} that is no Iceberg table ({kind}); nothing \
                     was changed"
                ),
                "give the stream another destination_table or destination_database, or drop that \
                 table",
            ));
        };
        let location = location.clone();
        Ok(Described { table, location })
    }
}

/// Whether a table is one of Iceberg's.
pub fn is_iceberg(table: &Fields) -> bool {
    parameters(table).get(TABLE_TYPE).is_some_and(|kind| kind.eq_ignore_ascii_case(ICEBERG))
}

/// The table's name.
pub fn name(table: &Fields) -> Option<String> {
    table.get(&NAME).and_then(Value::as_text)
}

fn parameters(table: &Fields) -> BTreeMap<String, String> {
    table.get(&PARAMETERS).map(Value::as_map).unwrap_or_default()
}

/// A table whose metadata are now at `location`.
pub fn described(
    name: &TableName,
    base: Option<&Described>,
    metadata: &TableMetadata,
    location: &str,
) -> Value {
    let mut table = base.map_or_else(|| new(name), |base| base.table.clone());
    let mut parameters = parameters(&table);
    let mut set = |key: &str, value: &str| parameters.insert(key.to_owned(), value.to_owned());
    set("EXTERNAL", "TRUE");
    set(TABLE_TYPE, ICEBERG);
    set(METADATA_LOCATION, location);
    if let Some(base) = base {
        set(PREVIOUS, &base.location);
    } else {
        set("storage_handler", STORAGE_HANDLER);
    }
    set("uuid", &metadata.uuid().to_string());
    let summary = metadata.current_snapshot().map(|current| current.summary());
    for (key, of) in STATISTICS {
        let count = summary.and_then(|summary| summary.additional_properties.get(of));
        set(key, count.map_or("0", String::as_str));
    }
    table.insert(PARAMETERS, Value::map(parameters));
    let mut storage = match table.remove(&STORAGE) {
        Some(Value::Struct(storage)) => storage,
        _ => new_storage(),
    };
    storage.insert(1, columns(metadata));
    storage.insert(2, Value::text(metadata.location()));
    table.insert(STORAGE, Value::Struct(storage));
    Value::Struct(table)
}

fn new(name: &TableName) -> Fields {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let user = std::env::var("USER").unwrap_or_else(|_| "tidewater".into());
    Fields::from([
        (NAME, Value::text(&name.name)),
        (DATABASE, Value::text(&name.namespace)),
        (OWNER, Value::text(user)),
        (CREATED, Value::Int(i32::try_from(now).unwrap_or(i32::MAX))),
        (RETENTION, Value::Int(i32::MAX)),
        (PARTITION_KEYS, Value::List(TType::Struct, Vec::new())),
        (KIND, Value::text("EXTERNAL_TABLE")),
    ])
}

fn new_storage() -> Fields {
    Fields::from([
        (3, Value::text(INPUT_FORMAT)),
        (4, Value::text(OUTPUT_FORMAT)),
        (5, Value::Bool(false)),
        (6, Value::Int(0)),
        (7, Value::fields([(2, Value::text(SERDE)), (3, Value::map(BTreeMap::new()))])),
        (8, Value::List(TType::String, Vec::new())),
        (9, Value::List(TType::Struct, Vec::new())),
        (10, Value::map(BTreeMap::new())),
    ])
}

fn columns(metadata: &TableMetadata) -> Value {
    let schema = metadata.current_schema();
    let column = |field: &iceberg::spec::NestedFieldRef| {
        Value::fields([
            (1, Value::text(&field.name)),
            (2, Value::text(hive_type(&field.field_type))),
            (3, Value::text(field.doc.clone().unwrap_or_default())),
        ])
    };
    Value::List(TType::Struct, schema.as_struct().fields().iter().map(column).collect())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::super::example;
    use super::*;

    #[test]
    fn what_others_say_of_a_table_stays_and_what_is_not_known_comes_back() {
        let name = example::name("t");
        let next = example::next(Path::new("/w"), None, "first");
        let made = described(&name, None, &next.metadata, "file:///w/1");
        let Value::Struct(mut table) = made else { panic!("no struct: {made:?}") };
        table.insert(OWNER, Value::text("them"));
        table.insert(99, Value::text("of a version to come"));
        let mut theirs = parameters(&table);
        assert_eq!(theirs[TABLE_TYPE], "ICEBERG");
        assert!(!theirs.contains_key(PREVIOUS));
        theirs.insert("theirs".into(), "kept".into());
        table.insert(PARAMETERS, Value::map(theirs));

        let base = Described::parse(&name, Some(Value::Struct(table))).unwrap();
        let altered = described(&name, Some(&base), &next.metadata, "file:///w/2");
        let Value::Struct(table) = altered else { panic!("no struct: {altered:?}") };
        assert_eq!(table[&OWNER], Value::text("them"));
        assert_eq!(table[&99], Value::text("of a version to come"));
        let said = parameters(&table);
        assert_eq!((&*said["theirs"], &*said[PREVIOUS]), ("kept", "file:///w/1"));
        assert_eq!(said[METADATA_LOCATION], "file:///w/2");
    }

    #[test]
    fn a_table_without_metadata_is_not_icebergs() {
        let table = Fields::from([(KIND, Value::text("MANAGED_TABLE"))]);
        let error = Described::parse(&example::name("t"), Some(Value::Struct(table))).unwrap_err();
        assert!(error.to_string().contains("no Iceberg table (MANAGED_TABLE)"), "{error}");
    }
}
