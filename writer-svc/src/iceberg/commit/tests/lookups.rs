//! Rows found by their keys after any commits.

use std::collections::BTreeMap;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;

use super::*;
use crate::complete::{Asked, Unfound};
use crate::iceberg::lookup::Lookup;
use crate::scan::{Column, Which};

/// The keys that are found, and those that are not.
fn look_up(table: &IcebergTable, wanted: &[i64]) -> Result<(Vec<i64>, Vec<i64>), Unfound> {
    let base = table.load()?.expect("the table exists");
    let id = base.metadata.current_schema().field_by_name("id").unwrap().id;
    let field = Field::new("id", DataType::Int64, true);
    let field = field.with_metadata([(PARQUET_FIELD_ID_META_KEY.into(), id.to_string())].into());
    let ids = Arc::new(Int64Array::from(wanted.to_vec()));
    let keys = RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![ids]).unwrap();
    let values = [Column { which: Which::Id(id), kind: DataType::Int64 }];
    let mut found = Vec::new();
    let missing = Lookup { table, base: &base }.rows(&keys, &values, &mut |places, arrays| {
        let read = arrays[0].as_primitive::<Int64Type>().values().to_vec();
        let told: Vec<i64> = places.iter().map(|&place| wanted[place]).collect();
        assert_eq!(read, told, "each key gets its own row");
        found.extend(told);
        Ok(())
    })?;
    let mut missing: Vec<i64> = missing.into_iter().map(|place| wanted[place]).collect();
    found.sort_unstable();
    missing.sort_unstable();
    Ok((found, missing))
}

#[test]
fn a_key_has_the_row_that_no_later_delete_names() {
    let root = tempfile::tempdir().unwrap();
    let table = table_as(root.path(), "/{id, bucket[3]}", 0);
    let mut live: BTreeMap<i64, usize> = BTreeMap::new();
    let mut random = 11_u64;
    let mut next = |below: u64| {
        // Knuth's MMIX constants.
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((random >> 33) % below) as i64
    };
    for number in 0..25 {
        let load = format!("l{number}");
        let range = |start: i64, length: i64| start..start + length;
        let (deleted, added) = (range(next(80), next(30) + 1), range(next(80), next(20) + 1));
        // What is added anew replaces what was there, as changes do.
        let staged = match number {
            0 => vec![stage(&table, &load, 0, 0..60)],
            _ => vec![
                stage(&table, &load, 0, added.clone()),
                stage_deletes(&table, &load, 1, deleted.clone()),
                stage_deletes(&table, &load, 2, added.clone()),
            ],
        };
        let mode = if number == 0 { Mode::Append } else { Mode::RowDelta };
        let request = CommitRequest { mode: mode.into(), ..request(&load, &load, staged) };
        commit(&table, &request).unwrap();
        if number == 0 {
            live.extend((0..60).map(|id| (id, number)));
        } else {
            live.retain(|id, _| !deleted.contains(id));
            live.extend(added.map(|id| (id, number)));
        }
        let wanted: Vec<i64> = (0..110).filter(|_| next(3) > 0).collect();
        let (found, missing) = look_up(&table, &wanted).map_err(|e| format!("{e:?}")).unwrap();
        let (there, gone): (Vec<i64>, Vec<i64>) =
            wanted.iter().copied().partition(|id| live.contains_key(id));
        assert_eq!((found, missing), (there, gone), "after commit {number}");
    }
}

#[test]
fn an_object_that_is_gone_is_an_error_and_no_missing_row() {
    let root = tempfile::tempdir().unwrap();
    let table = table(root.path());
    commit_rows(&table, "c1", 10);
    let base = table.load().unwrap().unwrap();
    let listed = &table.manifests(&base).unwrap()[0];
    let content = table.object(&listed.manifest_path).unwrap();
    let live = manifest::Lives::of(listed, &content).unwrap().next().unwrap().unwrap();
    table.storage.delete(live.file.file_path()).unwrap();
    assert!(matches!(look_up(&table, &[1]), Err(Unfound::Failed(_))));
    // Bounds say that this one is in no file.
    assert!(matches!(look_up(&table, &[100]), Ok((_, missing)) if missing == [100]));
}
