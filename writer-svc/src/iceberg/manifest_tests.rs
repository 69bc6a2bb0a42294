//! Manifests of ours, read by ourselves and by the crate.

use std::collections::HashMap;
use std::sync::Arc;

use iceberg::spec::{
    DataFileBuilder, DataFileFormat, Datum, Literal, NestedField, PrimitiveType, Schema, Struct,
    Transform, Type, UnboundPartitionSpec,
};
use uuid::Uuid;

use super::*;

/// Every kind of partition value.
fn kinds() -> Vec<(PrimitiveType, Literal)> {
    use PrimitiveType as T;
    vec![
        (T::Boolean, Literal::bool(true)),
        (T::Int, Literal::int(-5)),
        (T::Long, Literal::long(1_i64 << 40)),
        (T::Float, Literal::float(-0.5)),
        (T::Double, Literal::double(1e300)),
        (T::Decimal { precision: 9, scale: 2 }, Literal::decimal(-12_345)),
        (T::Decimal { precision: 38, scale: 0 }, Literal::decimal(i128::MAX / 3)),
        (T::Date, Literal::date(-1)),
        (T::Time, Literal::time(1)),
        (T::Timestamp, Literal::timestamp(-1)),
        (T::Timestamptz, Literal::timestamptz(7)),
        (T::String, Literal::string("é/=")),
        (T::Binary, Literal::binary(vec![0, 255])),
    ]
}

fn schema(kinds: impl Iterator<Item = PrimitiveType>) -> SchemaRef {
    named_schema("c", kinds)
}

fn named_schema(name: &str, kinds: impl Iterator<Item = PrimitiveType>) -> SchemaRef {
    let fields = (1..).zip(kinds).map(|(id, kind)| {
        Arc::new(NestedField::optional(id, format!("{name}{id}"), Type::Primitive(kind)))
    });
    Arc::new(Schema::builder().with_fields(fields).build().unwrap())
}

fn common(schema: &SchemaRef, version: FormatVersion) -> Common {
    let mut spec = UnboundPartitionSpec::builder();
    for field in schema.as_struct().fields() {
        spec = spec.add_partition_field(field.id, &field.name, Transform::Identity).unwrap();
    }
    let spec = spec.build().bind(schema.clone()).unwrap();
    Common { schema: schema.clone(), spec, content: ManifestContentType::Data, version }
}

fn file(name: &str, partition: Struct) -> DataFile {
    let mut builder = DataFileBuilder::default();
    builder
        .content(DataContentType::Data)
        .file_path(format!("file:///t/{name}"))
        .file_format(DataFileFormat::Parquet)
        .partition(partition)
        .record_count(10)
        .file_size_in_bytes(100)
        .column_sizes(HashMap::from([(1, 7), (2, 8)]))
        .value_counts(HashMap::from([(1, 10)]))
        .null_value_counts(HashMap::from([(1, 0)]))
        .nan_value_counts(HashMap::from([(4, 1)]))
        .lower_bounds(HashMap::from([(2, Datum::int(-5))]))
        .upper_bounds(HashMap::from([(2, Datum::int(9))]))
        .split_offsets(Some(vec![4, 400]))
        .build()
        .unwrap()
}

fn written(common: &Common, files: &[DataFile]) -> Encoded {
    let mut writer = Writer::new(common, None).unwrap();
    files.iter().for_each(|file| writer.add(file).unwrap());
    writer.finish().unwrap()
}

#[test]
fn every_partition_value_is_read_as_it_was_written_by_the_crate_as_well() {
    let kinds = kinds();
    let schema = schema(kinds.iter().map(|(kind, _)| kind.clone()));
    let full = Struct::from_iter(kinds.iter().map(|(_, value)| Some(value.clone())));
    let none = Struct::from_iter(kinds.iter().map(|_| None));
    let files = [file("a", full), file("b", none)];
    for version in [FormatVersion::V2, FormatVersion::V3] {
        let encoded = written(&common(&schema, version), &files);
        let ours = decode("m", &encoded.content).unwrap();
        let theirs = Manifest::parse_avro(&encoded.content).unwrap();
        for manifest in [&ours, &theirs] {
            assert_eq!(*manifest.metadata().format_version(), version);
            let read: Vec<_> = manifest.entries().iter().map(|e| e.data_file().clone()).collect();
            assert_eq!(read, files);
        }
        let summaries = encoded.entry.partitions.unwrap();
        assert!(summaries.iter().all(|it| it.contains_null && it.contains_nan == Some(false)));
        let bound = |at: usize| summaries[at].lower_bound.clone().unwrap().into_vec();
        assert_eq!(bound(1), (-5_i32).to_le_bytes());
        assert_eq!(bound(5), [0xcf, 0xc7], "as few bytes as there can be");
    }
}

#[test]
fn uuids_are_partition_values() {
    // Under a name that Avro does not have, too: fields are known by their ids.
    let schema = named_schema("9 é", [PrimitiveType::Uuid, PrimitiveType::Int].into_iter());
    let uuids = [Uuid::from_u128(7), Uuid::from_u128(u128::MAX - 1)];
    let files = uuids.map(|uuid| file("u", Struct::from_iter([Some(Literal::uuid(uuid)), None])));
    let encoded = written(&common(&schema, FormatVersion::V2), &files);
    let read = decode("m", &encoded.content).unwrap();
    let read: Vec<_> = read.entries().iter().map(|entry| entry.data_file().clone()).collect();
    assert_eq!(read, files);
    let summary = &encoded.entry.partitions.unwrap()[0];
    assert_eq!(summary.lower_bound.as_ref().unwrap().as_slice(), uuids[0].as_bytes());
    assert_eq!(summary.upper_bound.as_ref().unwrap().as_slice(), uuids[1].as_bytes());
}

#[test]
fn bounds_and_partition_values_from_before_a_type_was_widened_are_written_wide() {
    let narrow = schema([PrimitiveType::Boolean, PrimitiveType::Int].into_iter());
    let wide = schema([PrimitiveType::Boolean, PrimitiveType::Long].into_iter());
    let partition = Struct::from_iter([Some(Literal::bool(true)), Some(Literal::int(3))]);
    let encoded = written(&common(&narrow, FormatVersion::V2), &[file("a", partition)]);
    let mut listed = ManifestFile { manifest_path: "m".into(), ..encoded.entry };
    (listed.sequence_number, listed.added_snapshot_id) = (5, 77);
    let lives: Vec<_> = Lives::of(&listed, &encoded.content).unwrap().map(Result::unwrap).collect();
    let mut writer = Writer::new(&common(&wide, FormatVersion::V2), Some(78)).unwrap();
    lives.iter().for_each(|live| writer.keep(live).unwrap());
    let merged = writer.finish().unwrap();
    let read = decode("m", &merged.content).unwrap();
    let entry = &read.entries()[0];
    assert_eq!(entry.data_file().lower_bounds()[&2], Datum::long(-5));
    assert_eq!(entry.data_file().partition().fields()[1], Some(Literal::long(3)));
    assert_eq!((entry.snapshot_id, entry.sequence_number), (Some(77), Some(5)));
    assert_eq!((merged.entry.min_sequence_number, merged.entry.existing_files_count), (5, Some(1)));
    let summary = &merged.entry.partitions.unwrap()[1];
    assert_eq!(summary.lower_bound.as_ref().unwrap().as_slice(), 3_i64.to_le_bytes());
}

#[test]
fn row_ids_are_inherited_once_and_then_kept() {
    let schema = schema([PrimitiveType::Boolean].into_iter());
    let common = common(&schema, FormatVersion::V3);
    let files = ["a", "b"].map(|name| file(name, Struct::from_iter([None])));
    let encoded = written(&common, &files);
    let listed = ManifestFile {
        manifest_path: "m".into(),
        sequence_number: 1,
        first_row_id: Some(1000),
        ..encoded.entry
    };
    let ids = |listed: &ManifestFile, content: &[u8]| {
        let lives = Lives::of(listed, content).unwrap().map(Result::unwrap);
        lives.map(|live| live.first_row_id).collect::<Vec<_>>()
    };
    assert_eq!(ids(&listed, &encoded.content), [Some(1000), Some(1010)]);

    let mut writer = Writer::new(&common, Some(5)).unwrap();
    for live in Lives::of(&listed, &encoded.content).unwrap() {
        writer.keep(&live.unwrap()).unwrap();
    }
    let merged = writer.finish().unwrap();
    let again = ManifestFile { sequence_number: 2, ..merged.entry };
    assert_eq!(again.first_row_id, Some(1000));
    assert_eq!(ids(&again, &merged.content), [Some(1000), Some(1010)]);
}

#[test]
fn manifests_are_closed_at_their_size_and_are_small() {
    use crate::iceberg::storage::{LocalStorage, Storage};

    let schema = schema([PrimitiveType::Boolean].into_iter());
    let root = tempfile::tempdir().unwrap();
    let storage = LocalStorage::new(root.path().to_owned());
    let mut shelf =
        rolling::Shelf::new(&storage, &format!("file://{}/metadata", root.path().display()));
    let mut rolling = rolling::Rolling::new(common(&schema, FormatVersion::V2), Some(1), 20_000);
    for at in 0..5000 {
        let file = file(&format!("{}-{at}", Uuid::new_v4()), Struct::from_iter([None]));
        rolling.push(&mut shelf, file.partition(), |manifest| manifest.add(&file)).unwrap();
    }
    let manifests = rolling.finish(&mut shelf).unwrap();
    assert!(manifests.len() > 3, "{}", manifests.len());
    assert_eq!(manifests.iter().map(|it| it.added_files_count.unwrap()).sum::<u32>(), 5000);
    for manifest in &manifests {
        assert!((1000..100_000).contains(&manifest.manifest_length), "{manifest:?}");
        let content = storage.read(&manifest.manifest_path).unwrap().unwrap();
        assert_eq!(content.len() as i64, manifest.manifest_length);
        let added = manifest.added_files_count.unwrap() as usize;
        assert_eq!(decode("m", &content).unwrap().entries().len(), added);
    }
}

#[test]
fn uuids_of_other_signs_are_in_other_manifests() {
    use crate::iceberg::storage::LocalStorage;

    let schema = schema([PrimitiveType::Uuid].into_iter());
    let root = tempfile::tempdir().unwrap();
    let storage = LocalStorage::new(root.path().to_owned());
    let mut shelf = rolling::Shelf::new(&storage, &format!("file://{}/m", root.path().display()));
    let mut rolling =
        rolling::Rolling::new(common(&schema, FormatVersion::V2), Some(1), usize::MAX);
    let high = 1 << 127;
    let low = 1 << 63;
    for uuid in [1, high, low, high | low, high | 5, 7, u128::MAX] {
        let uuid = Some(Literal::uuid(Uuid::from_u128(uuid)));
        let file = file("u", Struct::from_iter([uuid]));
        rolling.push(&mut shelf, file.partition(), |manifest| manifest.add(&file)).unwrap();
    }
    let bounds: Vec<_> = rolling
        .finish(&mut shelf)
        .unwrap()
        .into_iter()
        .map(|listed| {
            let summary = &listed.partitions.unwrap()[0];
            let number = |bytes: &[u8]| u128::from_be_bytes(bytes.try_into().unwrap());
            let (lower, upper) = (&summary.lower_bound, &summary.upper_bound);
            (number(lower.as_ref().unwrap()), number(upper.as_ref().unwrap()))
        })
        .collect();
    assert_eq!(bounds, [(1, 7), (low, low), (high, high | 5), (high | low, u128::MAX)]);
}
