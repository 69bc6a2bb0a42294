//! Ids, types and keys, in new tables and in those that are there.

use iceberg::spec::{FormatVersion, SortOrder, TableMetadataBuilder, UnboundPartitionSpec};

use super::*;

fn field(name: &str, kind: DataType) -> Field {
    Field::new(name, kind, true)
}

fn list(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("item", item, true)))
}

fn keys(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn table(schema: &Schema) -> TableMetadata {
    let spec = UnboundPartitionSpec::builder().build();
    TableMetadataBuilder::new(
        schema.clone(),
        spec,
        SortOrder::unsorted_order(),
        "file:///w/d/t".into(),
        FormatVersion::V2,
        HashMap::new(),
    )
    .unwrap()
    .build()
    .unwrap()
    .metadata
}

fn id_of(field: &Field) -> i32 {
    field.metadata()[PARQUET_FIELD_ID_META_KEY].parse().unwrap()
}

#[test]
fn a_new_table_is_numbered_as_iceberg_numbers_it() {
    let uuid = field("u", DataType::FixedSizeBinary(16))
        .with_metadata([(EXTENSION.to_owned(), "arrow.uuid".to_owned())].into());
    let json = field("j", DataType::Utf8)
        .with_metadata([(EXTENSION.to_owned(), "arrow.json".to_owned())].into());
    let layout = ArrowSchema::new(vec![
        field("id", DataType::Int64),
        field("tags", list(DataType::Utf8)),
        uuid,
        field("nums", list(DataType::Decimal128(12, 3))),
        json,
    ]);
    let plan = plan("d.t", None, &layout, &keys(&["id"])).unwrap();
    // What the crate assigns to a new table is what was written into files.
    assert_eq!(table(&plan.table).current_schema().as_struct(), plan.table.as_struct());
    let ids: Vec<_> = plan.arrow.fields().iter().map(|field| id_of(field)).collect();
    assert_eq!(ids, [1, 2, 3, 4, 5]);
    let DataType::List(item) = plan.arrow.field(3).data_type() else { panic!("no list") };
    assert_eq!((item.name().as_str(), id_of(item)), ("element", 7));
    assert!(!plan.arrow.field(0).is_nullable() && plan.arrow.field(1).is_nullable());
    assert_eq!(plan.table.identifier_field_ids().collect::<Vec<_>>(), [1]);
    assert_eq!(plan.arrow.field(2).extension_type_name(), Some("arrow.uuid"));
    assert_eq!(plan.arrow.field(4).extension_type_name(), None);
    let types: Vec<_> =
        plan.table.as_struct().fields().iter().map(|f| type_name(&f.field_type)).collect();
    assert_eq!(types, ["long", "list<string>", "uuid", "list<decimal(12, 3)>", "string"]);
}

#[test]
fn a_key_that_iceberg_forbids_is_not_declared() {
    let layout = ArrowSchema::new(vec![field("x", DataType::Float64), field("y", DataType::Int32)]);
    for identifiers in [keys(&["x", "y"]), keys(&["gone"]), keys(&[])] {
        let plan = plan("d.t", None, &layout, &identifiers).unwrap();
        assert_eq!(plan.table.identifier_field_ids().count(), 0, "{identifiers:?}");
        assert!(plan.arrow.fields().iter().all(|field| field.is_nullable()));
    }
}

#[test]
fn columns_of_a_table_keep_their_ids_and_new_ones_come_after() {
    let first =
        ArrowSchema::new(vec![field("a", DataType::Int32), field("l", list(DataType::Int32))]);
    let base = table(&plan("d.t", None, &first, &[]).unwrap().table);
    assert_eq!(base.last_column_id(), 3);
    let second = ArrowSchema::new(vec![
        field("new", list(DataType::Utf8)),
        field("l", list(DataType::Int32)),
        field("late", DataType::Date32),
    ]);
    let plan = plan("d.t", Some(&base), &second, &[]).unwrap();
    let ids: Vec<_> = plan.arrow.fields().iter().map(|field| id_of(field)).collect();
    assert_eq!(ids, [4, 2, 6]);
    let names: Vec<_> =
        plan.table.as_struct().fields().iter().map(|field| field.name.as_str()).collect();
    assert_eq!(names, ["a", "l", "new", "late"]);
    let merged = reconcile(&base, &plan.table, &plan.lineage).unwrap();
    assert_eq!(merged.as_struct(), plan.table.as_struct());
}

#[test]
fn a_type_widens_in_place_and_any_other_is_a_field_of_its_own() {
    let first = ArrowSchema::new(vec![
        field("id", DataType::Int32),
        field("f", DataType::Float32),
        field("d", DataType::Decimal128(9, 2)),
        field("l", list(DataType::Int32)),
        field("t", DataType::Int64),
    ]);
    let base = table(&plan("d.t", None, &first, &keys(&["id", "t"])).unwrap().table);
    assert_eq!(base.last_column_id(), 6);
    let second = ArrowSchema::new(vec![
        field("id", DataType::Int64),
        field("f", DataType::Float64),
        field("d", DataType::Decimal128(12, 2)),
        field("l", list(DataType::Int64)),
        field("t", DataType::Utf8),
    ]);
    let wide = plan("d.t", Some(&base), &second, &keys(&["id", "t"])).unwrap();
    let ids: Vec<_> = wide.arrow.fields().iter().map(|field| id_of(field)).collect();
    assert_eq!(ids, [1, 2, 3, 4, 7]);
    let types: Vec<_> =
        wide.table.as_struct().fields().iter().map(|f| type_name(&f.field_type)).collect();
    assert_eq!(types, ["long", "double", "decimal(12, 2)", "list<long>", "string"]);
    let mut identifiers: Vec<_> = wide.table.identifier_field_ids().collect();
    identifiers.sort_unstable();
    assert_eq!(identifiers, [1, 7]);
    let merged = reconcile(&base, &wide.table, &wide.lineage).unwrap();
    assert_eq!(merged.as_struct(), wide.table.as_struct());

    // Narrower, or of another scale, is another type.
    let wide = table(&wide.table);
    let third = ArrowSchema::new(vec![
        field("id", DataType::Int32),
        field("d", DataType::Decimal128(12, 3)),
    ]);
    let narrow = plan("d.t", Some(&wide), &third, &[]).unwrap();
    let ids: Vec<_> = narrow.arrow.fields().iter().map(|field| id_of(field)).collect();
    assert!(ids.iter().all(|id| *id > wide.last_column_id()), "{ids:?}");
    // What the stream has no longer may be null.
    let t = narrow.table.field_by_name("t").unwrap();
    assert!(!t.required && narrow.table.identifier_field_ids().count() == 0);
}

#[test]
fn a_table_that_has_become_another_is_noticed() {
    let schema = |columns: Vec<Field>, base: Option<&TableMetadata>| {
        plan("d.t", base, &ArrowSchema::new(columns), &[]).map(|plan| plan.table)
    };
    let base = table(&schema(vec![field("a", DataType::Int32)], None).unwrap());
    let staged = schema(vec![field("a", DataType::Int32), field("b", DataType::Utf8)], Some(&base));
    let staged = staged.unwrap();
    let reconcile = |now: &TableMetadata| reconcile(now, &staged, &Lineage::default());
    // Meanwhile somebody adds a column: the id that was taken is theirs.
    let others = vec![field("a", DataType::Int32), field("c", DataType::Utf8)];
    let moved = table(&schema(others, None).unwrap());
    assert!(reconcile(&moved).unwrap_err().contains("named"));
    let gone = table(&schema(vec![field("z", DataType::Int32)], None).unwrap());
    assert!(reconcile(&gone).is_err());
    let retyped = table(&schema(vec![field("a", DataType::Utf8)], None).unwrap());
    assert!(reconcile(&retyped).unwrap_err().contains("has become string"));
}
