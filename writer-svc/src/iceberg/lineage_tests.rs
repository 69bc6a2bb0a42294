//! Columns that are followed, and those that only look alike.

use std::collections::HashMap;

use arrow::datatypes::{DataType, Schema as ArrowSchema};
use iceberg::spec::{
    FormatVersion, SortOrder, TableMetadataBuilder, Transform, Type, UnboundPartitionSpec,
};
use proto::columns::RELATION;

use super::*;
use crate::iceberg::schema::{Plan, plan, reconcile};

const INT: DataType = DataType::Int32;
const LONG: DataType = DataType::Int64;
const TEXT: DataType = DataType::Utf8;

/// A layout of columns (name, type, number); 0: a column without a number.
fn layout(relation: &str, columns: &[(&str, DataType, i32)]) -> ArrowSchema {
    let field = |(name, kind, column): &(&str, DataType, i32)| {
        let number = (*column > 0).then(|| (COLUMN.to_owned(), column.to_string()));
        Field::new(*name, kind.clone(), true).with_metadata(number.into_iter().collect())
    };
    let relation = HashMap::from([(RELATION.to_owned(), relation.to_owned())]);
    ArrowSchema::new_with_metadata(columns.iter().map(field).collect::<Vec<_>>(), relation)
}

/// The first column is the key.
fn fit(base: Option<&TableMetadata>, layout: &ArrowSchema) -> Plan {
    plan("d.t", base, layout, std::slice::from_ref(layout.field(0).name())).unwrap()
}

/// The table after a load of `plan`.
fn commit(base: Option<&TableMetadata>, plan: &Plan) -> TableMetadata {
    let property = plan.lineage.property(base, &plan.table).unwrap();
    let builder = match base {
        None => {
            let spec = UnboundPartitionSpec::builder().build();
            let (order, version) = (SortOrder::unsorted_order(), FormatVersion::V2);
            let location = "file:///w/d/t".to_owned();
            TableMetadataBuilder::new(
                plan.table.clone(),
                spec,
                order,
                location,
                version,
                HashMap::new(),
            )
            .unwrap()
        }
        Some(base) => {
            let schema = reconcile(base, &plan.table, &plan.lineage).unwrap();
            base.clone().into_builder(None).add_current_schema(schema).unwrap()
        }
    };
    builder.set_properties(property.into_iter().collect()).unwrap().build().unwrap().metadata
}

/// (name, id) of the columns, in order.
fn fields(schema: &Schema) -> Vec<(&str, i32)> {
    schema.as_struct().fields().iter().map(|field| (field.name.as_str(), field.id)).collect()
}

/// A table of id, a, b from relation r, and the same columns as a layout.
fn three() -> TableMetadata {
    let columns = [("id", INT, 1), ("a", INT, 2), ("b", INT, 3)];
    commit(None, &fit(None, &layout("r", &columns)))
}

#[test]
fn a_renamed_column_keeps_its_field_whoever_has_the_name_now() {
    let base = three();
    type Case<'a> = (&'a [(&'a str, DataType, i32)], &'a [(&'a str, i32)]);
    let cases: [Case; 7] = [
        (&[("id", INT, 1), ("z", INT, 2), ("b", INT, 3)], &[("id", 1), ("z", 2), ("b", 3)]),
        // Swapped.
        (&[("id", INT, 1), ("b", INT, 2), ("a", INT, 3)], &[("id", 1), ("b", 2), ("a", 3)]),
        // All of them in a round.
        (&[("a", INT, 1), ("b", INT, 2), ("id", INT, 3)], &[("a", 1), ("b", 2), ("id", 3)]),
        // Renamed, and the old name given to a new column.
        (
            &[("id", INT, 1), ("z", INT, 2), ("b", INT, 3), ("a", INT, 4)],
            &[("id", 1), ("z", 2), ("b", 3), ("a", 4)],
        ),
        // Dropped, and a new column of that name, in its place.
        (&[("id", INT, 1), ("b", INT, 3), ("a", INT, 4)], &[("id", 1), ("a", 4), ("b", 3)]),
        // Dropped, and another renamed to its name.
        (&[("id", INT, 1), ("a", INT, 3)], &[("id", 1), ("a", 3)]),
        // Only dropped: null from then on.
        (&[("id", INT, 1), ("z", INT, 3)], &[("id", 1), ("a", 2), ("z", 3)]),
    ];
    for (columns, expected) in cases {
        let plan = fit(Some(&base), &layout("r", columns));
        assert_eq!(fields(&plan.table), expected);
        let after = commit(Some(&base), &plan);
        assert_eq!(fields(after.current_schema()), expected);
        for (name, kind, column) in columns {
            assert_eq!(plan.table.field_by_name(name).unwrap().id, plan.lineage.columns[column]);
            let field = plan.arrow.field_with_name(name).unwrap();
            assert_eq!((field.data_type(), field.metadata().get(COLUMN)), (kind, None));
        }
        // What has been followed once is followed on.
        let back = fit(Some(&after), &layout("r", &[("id", INT, 1), ("b", INT, 3)]));
        let id = |name: &str| back.table.field_by_name(name).unwrap().id;
        assert_eq!((id("id"), id("b")), (1, 3), "{columns:?}");
    }
}

#[test]
fn a_renamed_column_widens_in_place_and_becomes_a_new_field_where_it_cannot() {
    let list = |item| DataType::List(Arc::new(Field::new("item", item, true)));
    let first = [("id", INT, 1), ("a", list(INT), 2), ("b", INT, 3)];
    let base = commit(None, &fit(None, &layout("r", &first)));
    let then = [("key", LONG, 1), ("c", list(LONG), 2), ("d", TEXT, 3)];
    let plan = fit(Some(&base), &layout("r", &then));
    assert_eq!(fields(&plan.table), [("key", 1), ("c", 2), ("d", 5)]);
    let Type::List(items) = plan.table.field_by_name("c").unwrap().field_type.as_ref() else {
        panic!("no list");
    };
    assert_eq!(
        (items.element_field.id, items.element_field.field_type.to_string().as_str()),
        (4, "long")
    );
    assert_eq!(plan.table.identifier_field_ids().collect::<Vec<_>>(), [1]);
    let after = commit(Some(&base), &plan);
    assert_eq!(after.current_schema().identifier_field_ids().collect::<Vec<_>>(), [1]);
    // A key that is another column of that name stands in for it.
    let replaced = fit(Some(&after), &layout("r", &[("key", LONG, 4)]));
    assert_eq!(replaced.table.field_by_name("key").unwrap().id, 6);
    assert_eq!(replaced.table.identifier_field_ids().collect::<Vec<_>>(), [6]);
}

#[test]
fn names_decide_where_nothing_is_known_of_the_relation_and_are_remembered() {
    // Written by an earlier version, or from a source that says nothing.
    let silent = [("id", INT, 0), ("a", INT, 0), ("b", INT, 0)];
    let base = commit(None, &fit(None, &layout("", &silent)));
    assert!(!base.properties().contains_key(PROPERTY));
    let named = fit(Some(&base), &layout("r", &[("id", INT, 7), ("b", INT, 9), ("c", INT, 8)]));
    assert_eq!(fields(&named.table), [("id", 1), ("a", 2), ("b", 3), ("c", 4)]);
    let known = commit(Some(&base), &named);
    let followed = fit(Some(&known), &layout("r", &[("id", INT, 7), ("z", INT, 9)]));
    assert_eq!(fields(&followed.table), [("id", 1), ("a", 2), ("z", 3), ("c", 4)]);

    // Another relation: the same numbers mean nothing.
    let other = fit(Some(&known), &layout("s", &[("id", INT, 9), ("b", INT, 8), ("x", INT, 7)]));
    assert_eq!(fields(&other.table), [("id", 1), ("a", 2), ("b", 3), ("c", 4), ("x", 5)]);
    let other = commit(Some(&known), &other);
    let expected = r#"{"relation":"s","fields":{"7":5,"8":3,"9":1}}"#;
    assert_eq!(other.properties()[PROPERTY], expected);
    // Nor does what is no property of ours.
    for odd in ["", "{}", r#"{"relation":"s","fields":{"7":3,"8":3}}"#] {
        let property = HashMap::from([(PROPERTY.to_owned(), odd.to_owned())]);
        let builder = other.clone().into_builder(None).set_properties(property).unwrap();
        let base = builder.build().unwrap().metadata;
        let plan = fit(Some(&base), &layout("s", &[("id", INT, 8), ("b", INT, 7)]));
        assert_eq!(fields(&plan.table), [("id", 1), ("a", 2), ("b", 3), ("c", 4), ("x", 5)]);
    }
}

#[test]
fn columns_without_a_number_go_by_their_names_among_those_with_one() {
    let columns = [("_olake_id", TEXT, 0), ("data", TEXT, 3)];
    let base = commit(None, &fit(None, &layout("r", &columns)));
    // The rows as JSON are not the column that was named so.
    let json = [("_olake_id", TEXT, 0), ("data", TEXT, 0)];
    let plan = fit(Some(&base), &layout("r", &json));
    assert_eq!(fields(&plan.table), [("_olake_id", 1), ("data", 3)]);
    // A load of none of the source's columns forgets nothing.
    let after = commit(Some(&base), &fit(Some(&base), &layout("r", &[("_olake_id", TEXT, 0)])));
    let again = fit(Some(&after), &layout("r", &[("_olake_id", TEXT, 0), ("text", TEXT, 3)]));
    assert_eq!(fields(&again.table), [("_olake_id", 1), ("text", 2)]);
}

#[test]
fn what_others_change_in_between_is_merged_or_noticed() {
    let base = three();
    let columns = [("id", INT, 1), ("z", LONG, 2), ("a", INT, 4), ("new", INT, 5)];
    let plan = fit(Some(&base), &layout("r", &columns));
    assert_eq!(fields(&plan.table), [("id", 1), ("z", 2), ("b", 3), ("a", 4), ("new", 5)]);
    let merged = |change: &dyn Fn(&mut Vec<NestedFieldRef>)| {
        let mut fields = base.current_schema().as_struct().fields().to_vec();
        change(&mut fields);
        let schema = schema::with_fields(0, fields, std::iter::empty()).unwrap();
        let builder = base.clone().into_builder(None).add_current_schema(schema).unwrap();
        reconcile(&builder.build().unwrap().metadata, &plan.table, &plan.lineage)
    };
    let added = |id: i32, name: &str, kind: &str| -> NestedFieldRef {
        let kind: iceberg::spec::PrimitiveType = serde_json::from_value(kind.into()).unwrap();
        Arc::new(NestedField::optional(id, name, Type::Primitive(kind)))
    };
    // A later one is neither in the way nor lost; one with an id of ours is.
    let beside = merged(&|fields| fields.push(added(9, "theirs", "string")));
    assert!(beside.unwrap_err().contains("\"a\" has been dropped"), "ids 4 and 5 are taken");
    let taken = merged(&|fields| fields.push(added(4, "theirs", "int")));
    assert!(taken.unwrap_err().contains("field 4 is now named \"theirs\""));
    let renamed = |at: usize, name: &'static str| {
        merged(&|fields: &mut Vec<NestedFieldRef>| {
            let name = name.to_owned();
            fields[at] = Arc::new(NestedField { name, ..fields[at].as_ref().clone() });
        })
    };
    // To the name that it gets from us, or to another; what we do not rename.
    assert!(renamed(1, "z").is_ok());
    assert!(renamed(1, "y").unwrap_err().contains("field 2 is now named \"y\""));
    assert!(renamed(2, "y").unwrap_err().contains("field 3 is now named \"y\""));
    let narrower = merged(&|fields| fields[1] = added(2, "a", "string"));
    assert!(narrower.unwrap_err().contains("has become string"));
    assert!(merged(&|fields| fields[1] = added(2, "a", "long")).is_ok());
    let gone = merged(&|fields| drop(fields.remove(2)));
    assert!(gone.unwrap_err().contains("\"b\" has been dropped"));

    // A name that a rename takes.
    let plan = fit(Some(&base), &layout("r", &[("id", INT, 1), ("z", INT, 2), ("b", INT, 3)]));
    let mut fields = base.current_schema().as_struct().fields().to_vec();
    fields.push(added(4, "z", "int"));
    let schema = schema::with_fields(0, fields, std::iter::empty()).unwrap();
    let theirs = base.clone().into_builder(None).add_current_schema(schema).unwrap();
    let theirs = theirs.build().unwrap().metadata;
    let refused = reconcile(&theirs, &plan.table, &plan.lineage).unwrap_err();
    assert!(refused.contains("another column \"z\" has been added"), "{refused}");
}

#[test]
fn a_note_travels_with_a_schema_and_leaves_no_trace() {
    let plan = fit(Some(&three()), &layout("r", &[("id", INT, 1), ("z", INT, 2), ("a", INT, 5)]));
    assert!(!plan.lineage.renamed.is_empty());
    for doc in [None, Some("a comment of others".to_owned())] {
        let schema = with_first_doc(&plan.table, doc).unwrap();
        let noted = plan.lineage.noted(&schema).unwrap();
        assert_eq!(noted.schema_id(), schema.schema_id());
        assert_eq!(Lineage::of_noted(&noted).unwrap(), (schema.clone(), plan.lineage.clone()));
        // As an earlier version staged it.
        assert_eq!(Lineage::of_noted(&schema).unwrap(), (schema, Lineage::default()));
    }
    let broken = with_first_doc(&plan.table, Some(format!("{NOTE}no JSON"))).unwrap();
    assert!(Lineage::of_noted(&broken).is_err());
}

#[test]
fn a_column_is_not_named_as_a_partition_made_of_another() {
    let base = three();
    let part = |column: i32, name: &str, transform| {
        let spec = UnboundPartitionSpec::builder();
        let spec = spec.add_partition_field(column, name, transform).unwrap().build();
        let builder = base.clone().into_builder(None).add_default_partition_spec(spec).unwrap();
        builder.build().unwrap().metadata
    };
    let by_name = part(2, "a", Transform::Identity);
    let plan_on = |base: &TableMetadata, columns: &[(&str, DataType, i32)]| {
        plan("d.t", Some(base), &layout("r", columns), &[]).map(|plan| commit(Some(base), &plan))
    };
    // The partition goes on under its name, made of the renamed column.
    let renamed = plan_on(&by_name, &[("id", INT, 1), ("z", INT, 2), ("b", INT, 3)]).unwrap();
    assert_eq!(renamed.default_partition_spec().fields()[0].source_id, 2);
    for columns in [
        [("id", INT, 1), ("z", INT, 2), ("a", INT, 4)],
        [("id", INT, 1), ("b", INT, 2), ("a", INT, 3)],
    ] {
        let refused = plan_on(&by_name, &columns).unwrap_err().to_string();
        assert!(refused.contains("column \"a\" would be named as a partition"), "{refused}");
    }
    let by_bucket = part(2, "a_bucket", Transform::Bucket(4));
    let swapped = [("id", INT, 1), ("b", INT, 2), ("a", INT, 3)];
    plan_on(&by_bucket, &swapped).unwrap();
    let refused = plan_on(&by_bucket, &[("id", INT, 1), ("a", INT, 2), ("a_bucket", INT, 4)]);
    assert!(refused.unwrap_err().to_string().contains("\"a_bucket\" would be named"));
    // What the table is partitioned by cannot make room.
    let refused = plan_on(&by_bucket, &[("id", INT, 1), ("a", INT, 4)]).unwrap_err().to_string();
    assert!(refused.contains("\"a\", by which it is or was partitioned"), "{refused}");
}

#[test]
fn numbers_that_cannot_be_are_refused() {
    let twice = layout("r", &[("a", INT, 1), ("b", INT, 1)]);
    assert!(plan("d.t", None, &twice, &[]).unwrap_err().to_string().contains(COLUMN));
    let mut odd = Field::new("a", INT, true);
    odd.set_metadata([(COLUMN.to_owned(), "one".to_owned())].into());
    let refused = plan("d.t", None, &ArrowSchema::new(vec![odd]), &[]).unwrap_err().to_string();
    assert!(refused.contains("\"one\""), "{refused}");
}

#[test]
fn a_field_whose_column_is_gone_is_told_from_one_of_another_type() {
    let base = three();
    let lineage = |relation: &str, a: (&str, DataType, i32)| {
        fit(Some(&base), &layout(relation, &[("id", INT, 1), a, ("b", INT, 3)])).lineage
    };
    let taken = lineage("r", ("a", TEXT, 4));
    assert!(taken.removed.contains(&2) && taken.is_gone(&base, 2));
    let retyped = lineage("r", ("a", TEXT, 2));
    assert!(retyped.removed.contains(&2) && !retyped.is_gone(&base, 2));
    assert!(!lineage("other", ("a", TEXT, 4)).is_gone(&base, 2));
}
