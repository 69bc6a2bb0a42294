//! Changes against a table that they are made to, one by one.

use std::collections::BTreeMap;

use arrow::array::{
    Array, AsArray, BinaryArray, Int64Array, StringArray, TimestampMicrosecondArray,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Int64Type};
use proto::columns::{UNCHANGED, unchanged, unchanged_bits};

use super::bucket::COMPACT_BYTES;
use super::*;
use crate::layout::utc_microseconds;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new(OP_TYPE, DataType::Utf8, false),
        Field::new("_cdc_timestamp", utc_microseconds(), true),
        Field::new("_cdc_lsn", DataType::Utf8, true),
        Field::new("a", DataType::Int64, true),
        Field::new("b", DataType::Utf8, true),
        Field::new("v", DataType::Int64, true),
    ]))
}

type Change = (&'static str, i64, &'static str, i64);

fn batch(changes: &[Change]) -> RecordBatch {
    let ops: StringArray = changes.iter().map(|change| Some(change.0)).collect();
    let times = TimestampMicrosecondArray::from_value(7, changes.len()).with_timezone("UTC");
    let lsns = StringArray::new_repeated("0/1", changes.len());
    let a: Int64Array = changes.iter().map(|change| Some(change.1)).collect();
    let b: StringArray = changes.iter().map(|change| Some(change.2)).collect();
    let v: Int64Array = changes.iter().map(|change| Some(change.3)).collect();
    let columns: Vec<ArrayRef> =
        vec![Arc::new(ops), Arc::new(times), Arc::new(lsns), Arc::new(a), Arc::new(b), Arc::new(v)];
    RecordBatch::try_new(schema(), columns).unwrap()
}

type Keys = Vec<(i64, String)>;

/// Key → value of what lives, and the keys to delete.
fn reduce(batches: &[RecordBatch], budget: usize) -> (BTreeMap<(i64, String), i64>, Keys) {
    let dir = tempfile::tempdir().unwrap();
    let key = ["b".to_owned(), "a".to_owned()];
    let mut reducer = Reducer::new(Scope::Stream, schema(), &key, dir.path(), budget).unwrap();
    batches.iter().for_each(|batch| reducer.push(batch).unwrap());
    let (mut rows, mut keys) = (BTreeMap::new(), Vec::new());
    for reduced in reducer.finish().unwrap() {
        let Reduced { rows: live, keys: gone, lacking, from: _ } = reduced.unwrap();
        assert_eq!(lacking.num_rows(), 0, "every change is whole");
        let (a, v) = (live.column(3).as_primitive::<Int64Type>(), live.column(5));
        for row in 0..live.num_rows() {
            let b = live.column(4).as_string::<i32>().value(row).to_owned();
            let value = v.as_primitive::<Int64Type>().value(row);
            let before = rows.insert((a.value(row), b), value);
            assert_eq!(before, None, "a key has one row");
        }
        for row in 0..gone.num_rows() {
            let b = gone.column(0).as_string::<i32>().value(row).to_owned();
            keys.push((gone.column(1).as_primitive::<Int64Type>().value(row), b));
        }
    }
    keys.sort();
    (rows, keys)
}

#[test]
fn each_key_comes_to_its_last_change() {
    let (rows, keys) = reduce(
        &[
            batch(&[("c", 1, "x", 1), ("u", 2, "x", 2), ("d", 3, "x", 0), ("c", 1, "y", 4)]),
            batch(&[("u", 1, "x", 5), ("d", 1, "y", 0), ("c", 3, "x", 6), ("d", 4, "x", 0)]),
        ],
        1 << 20,
    );
    let key = |a: i64, b: &str| (a, b.to_owned());
    assert_eq!(rows, [(key(1, "x"), 5), (key(2, "x"), 2), (key(3, "x"), 6)].into());
    // (1, y) was created and deleted: nobody has ever seen it.
    assert_eq!(keys, [key(2, "x"), key(3, "x"), key(4, "x")]);
}

#[test]
fn keys_are_told_apart_as_values() {
    // Both have the same text when their values are put together.
    let (rows, _) = reduce(&[batch(&[("c", 1, "2", 1), ("c", 12, "", 2)])], 1 << 20);
    assert_eq!(rows.len(), 2);
}

#[test]
fn what_does_not_fit_into_memory_comes_to_the_same() {
    let mut next = random(7);
    let mut table: BTreeMap<(i64, String), i64> = BTreeMap::new();
    let (mut seen, mut old) = (BTreeMap::new(), Vec::new());
    for key in 0..300 {
        table.insert((key, "k".to_owned()), -1);
        old.push(key);
    }
    let mut batches = Vec::new();
    for value in 0..200 {
        let mut changes = Vec::new();
        for _ in 0..100 {
            let key = next(900) as i64;
            let known = table.contains_key(&(key, "k".to_owned()));
            let op = match (known, next(10) < 3) {
                (false, _) => "c",
                (true, true) => "d",
                (true, false) => "u",
            };
            seen.entry(key).or_insert(op);
            match op {
                "d" => table.remove(&(key, "k".to_owned())),
                _ => table.insert((key, "k".to_owned()), value),
            };
            changes.push((op, key, "k", value));
        }
        batches.push(batch(&changes));
    }
    table.retain(|(key, _), _| seen.contains_key(key));
    let gone: Keys = seen
        .iter()
        .filter(|(_, first)| **first != "c")
        .map(|(key, _)| (*key, "k".to_owned()))
        .collect();
    for budget in [1, 64 << 10, 64 << 20] {
        assert_eq!(reduce(&batches, budget), (table.clone(), gone.clone()), "{budget}");
    }
}

#[test]
fn a_key_that_changes_all_the_time_takes_no_memory() {
    let keys = Arc::new(schema().project(&[3, 4]).unwrap());
    let converter = converter(&keys).unwrap();
    let scope = Scope::Stream;
    let columns =
        Columns { scope, schema: schema(), reserved: 3, keyed: true, key: vec![3, 4], keys };
    let mut bucket = Bucket::new(columns, converter, 1 << 20);
    let changes = vec![("u", 1, "hot", 1); 10_000];
    let batch = batch(&changes);
    for _ in 0..200 {
        bucket.take(batch.clone()).unwrap();
        assert!(bucket.bytes <= COMPACT_BYTES, "{}", bucket.bytes);
    }
    assert_eq!(bucket.reduce().unwrap().rows.num_rows(), 1);
}

#[test]
fn by_transaction_each_keeps_what_it_has_made_of_a_key() {
    let dir = tempfile::tempdir().unwrap();
    let mut reducer =
        Reducer::new(Scope::Transaction, schema(), &["a".to_owned()], dir.path(), 1 << 20).unwrap();
    let first = batch(&[("c", 1, "x", 1), ("u", 1, "x", 2), ("c", 2, "x", 1)]);
    let mut columns = batch(&[("u", 1, "x", 3), ("d", 1, "x", 0)]).columns().to_vec();
    columns[2] = Arc::new(StringArray::new_repeated("0/2", 2));
    let second = RecordBatch::try_new(schema(), columns).unwrap();
    reducer.push(&first).unwrap();
    reducer.push(&second).unwrap();
    let mut kept = Vec::new();
    for reduced in reducer.finish().unwrap() {
        let rows = reduced.unwrap().rows;
        let text = |column: usize, row| rows.column(column).as_string::<i32>().value(row);
        let key = rows.column(3).as_primitive::<Int64Type>();
        kept.extend(
            (0..rows.num_rows())
                .map(|row| format!("{} {} {}", key.value(row), text(2, row), text(0, row))),
        );
    }
    kept.sort();
    assert_eq!(kept, ["1 0/1 u", "1 0/2 d", "2 0/1 c"]);
}

#[test]
fn changes_without_a_key_or_an_operation_are_refused() {
    let refused = |sent: SchemaRef, key: &[String]| {
        Reducer::new(Scope::Transaction, sent, key, Path::new("/nowhere"), 1).is_err()
    };
    assert!(refused(schema(), &[]));
    assert!(refused(schema(), &["gone".into()]));
    // A column of the source is meant, whatever it is called.
    assert!(refused(schema(), &["_cdc_lsn".into()]));
    let plain = Arc::new(schema().project(&[3, 4]).unwrap());
    assert!(refused(plain, &["a".into()]));
}

/// Numbers below what is asked for, by a seed.
fn random(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut random = seed;
    move |below| {
        // Knuth's MMIX constants.
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    }
}

/// Of a table with a key and two long values.
fn long_schema() -> SchemaRef {
    let lacking = Field::new("_unchanged", DataType::Binary, true);
    let mut fields = schema().fields()[..3].to_vec();
    fields.push(Arc::new(lacking.with_metadata([(UNCHANGED.to_owned(), String::new())].into())));
    fields.push(Arc::new(Field::new("k", DataType::Int64, true)));
    fields.push(Arc::new(Field::new("v", DataType::Utf8, true)));
    fields.push(Arc::new(Field::new("w", DataType::Utf8, true)));
    Arc::new(Schema::new(fields))
}

/// Operation, transaction, key, and the values that the change carries.
type Long = (&'static str, u64, i64, [Option<String>; 2]);

fn long_batch(changes: &[Long]) -> RecordBatch {
    let texts = |of: &dyn Fn(&Long) -> Option<String>| -> ArrayRef {
        Arc::new(changes.iter().map(of).collect::<StringArray>())
    };
    let lacking = changes.iter().map(|(_, _, _, values)| {
        let lacking = (0..2).filter(|at| values[*at].is_none()).map(|at| at + 1);
        Some(unchanged_bits(lacking)).filter(|bits| !bits.is_empty())
    });
    let times = TimestampMicrosecondArray::from_value(7, changes.len()).with_timezone("UTC");
    let keys: Int64Array = changes.iter().map(|change| Some(change.2)).collect();
    let columns: Vec<ArrayRef> = vec![
        texts(&|change| Some(change.0.to_owned())),
        Arc::new(times),
        texts(&|change| Some(format!("0/{:X}", change.1))),
        Arc::new(lacking.collect::<BinaryArray>()),
        Arc::new(keys),
        texts(&|change| change.3[0].clone()),
        texts(&|change| change.3[1].clone()),
    ];
    RecordBatch::try_new(long_schema(), columns).unwrap()
}

/// A row: operation, transaction, key, values.
type Row = (String, String, i64, [String; 2]);

/// The rows that changes come to; what is unknown is taken from `before`. And
/// the keys to delete.
fn reduce_long(
    scope: Scope,
    batches: &[RecordBatch],
    budget: usize,
    before: &BTreeMap<i64, [String; 2]>,
) -> (Vec<Row>, Vec<i64>) {
    let dir = tempfile::tempdir().unwrap();
    let mut reducer =
        Reducer::new(scope, long_schema(), &["k".to_owned()], dir.path(), budget).unwrap();
    batches.iter().for_each(|batch| reducer.push(batch).unwrap());
    let (mut rows, mut gone) = (Vec::new(), Vec::new());
    for reduced in reducer.finish().unwrap() {
        let Reduced { rows: whole, lacking, keys, from: _ } = reduced.unwrap();
        gone.extend(keys.column(0).as_primitive::<Int64Type>().values());
        let lacks = |row: usize| lacking.column(3).is_valid(row);
        assert!((0..lacking.num_rows()).all(lacks), "what lacks nothing is whole");
        let live = concat_batches(&long_schema(), [&whole, &lacking]).unwrap();
        let text =
            |column: usize, row| live.column(column).as_string::<i32>().value(row).to_owned();
        let lacking = live.column(3).as_binary::<i32>();
        for row in 0..live.num_rows() {
            let key = live.column(4).as_primitive::<Int64Type>().value(row);
            let mut values = [text(5, row), text(6, row)];
            for at in
                lacking.is_valid(row).then(|| unchanged(lacking.value(row))).into_iter().flatten()
            {
                assert_eq!(values[at - 1], "", "what is unknown is null");
                values[at - 1].clone_from(&before[&key][at - 1]);
            }
            rows.push((text(0, row), text(2, row), key, values));
        }
    }
    rows.sort();
    gone.sort_unstable();
    (rows, gone)
}

/// What random changes of a table come to, whatever they do not carry.
fn values_left_out(seed: u64, scope: Scope) {
    let mut next = random(seed);
    let mut before: BTreeMap<i64, [String; 2]> =
        (0..40).map(|key| (key, [format!("v{key}"), format!("w{key}")])).collect();
    let mut table = before.clone();
    let mut expected: BTreeMap<(i64, u64), Row> = BTreeMap::new();
    let (mut touched, mut batches) = (BTreeMap::new(), Vec::new());
    for statement in 0..60_u64 {
        let mut changes: Vec<Long> = Vec::new();
        for number in 0..next(30) {
            let (key, transaction) = (next(60) as i64, statement * 2 + u64::from(number > 10));
            let value = |column: &str| Some(format!("{column}{statement}-{number}"));
            let (op, carried) = match (table.contains_key(&key), next(10)) {
                (false, _) => ("c", [value("v"), value("w")]),
                (true, 0..3) => ("d", [None, None]),
                (true, which) => {
                    let carry = |at: u64| (which >> at & 1 == 0).then(|| value("u")).flatten();
                    ("u", [carry(0), carry(1)])
                }
            };
            let mut values = table.get(&key).cloned().unwrap_or_default();
            for (value, carried) in values.iter_mut().zip(&carried) {
                if let Some(carried) = carried {
                    value.clone_from(carried);
                }
            }
            match op {
                "d" => table.remove(&key),
                _ => table.insert(key, values.clone()),
            };
            touched.entry(key).or_insert(op);
            if scope == Scope::Transaction && op == "d" {
                // Its key is all that is said of it.
                values = [String::new(), String::new()];
                before.entry(key).or_default();
            }
            let of = if scope == Scope::Transaction { transaction } else { 0 };
            let lsn = format!("0/{transaction:X}");
            expected.insert((key, of), (op.to_owned(), lsn, key, values));
            changes.push((op, transaction, key, carried));
        }
        batches.push(long_batch(&changes));
    }
    if matches!(scope, Scope::Stream | Scope::Replacing) {
        expected.retain(|_, row| row.0 != "d");
    }
    let mut expected: Vec<Row> = expected.into_values().collect();
    expected.sort();
    let gone: Vec<i64> = match scope {
        Scope::Stream => {
            touched.iter().filter(|(_, op)| **op != "c").map(|(key, _)| *key).collect()
        }
        Scope::Replacing | Scope::Kept => touched.keys().copied().collect(),
        Scope::Transaction => Vec::new(),
    };
    for budget in [1, 64 << 20] {
        let found = reduce_long(scope, &batches, budget, &before);
        assert_eq!(found, (expected.clone(), gone.clone()), "seed {seed}, {scope:?}, {budget}");
    }
}

#[test]
fn values_that_a_change_lacks_are_those_of_the_change_before_or_of_the_table() {
    for seed in 0..30 {
        for scope in [Scope::Stream, Scope::Replacing, Scope::Kept, Scope::Transaction] {
            values_left_out(seed, scope);
        }
    }
}

/// Random changes of rows without a key: how many of each are more or fewer.
fn counted(seed: u64, scope: Scope, budget: usize) {
    let mut next = random(seed);
    let mut table: BTreeMap<(i64, i64), i64> = BTreeMap::new();
    for _ in 0..100 {
        *table.entry((next(5) as i64, next(3) as i64)).or_default() += 1;
    }
    let before = table.clone();
    let mut batches = Vec::new();
    for _ in 0..40 {
        let mut changes: Vec<Change> = Vec::new();
        for _ in 0..next(20) {
            let row = (next(8) as i64, next(3) as i64);
            let there = table.entry(row).or_default();
            let op = if *there > 0 && next(2) == 0 { "d" } else { "c" };
            *there += if op == "d" { -1 } else { 1 };
            changes.push((op, row.0, "x", row.1));
        }
        batches.push(batch(&changes));
    }
    let dir = tempfile::tempdir().unwrap();
    let mut reducer = Reducer::new(scope, schema(), &[], dir.path(), budget).unwrap();
    batches.iter().for_each(|batch| reducer.push(batch).unwrap());
    let mut after = before;
    let mut add = |rows: &RecordBatch, deleted: bool, by: i64| {
        for row in 0..rows.num_rows() {
            let number = |at: usize| rows.column(at).as_primitive::<Int64Type>().value(row);
            if (rows.column(0).as_string::<i32>().value(row) == "d") == deleted {
                *after.entry((number(3), number(5))).or_default() += by;
            }
        }
        rows.num_rows()
    };
    for reduced in reducer.finish().unwrap() {
        let Reduced { rows, lacking, keys, from: _ } = reduced.unwrap();
        assert_eq!(keys.num_rows(), 0);
        let gone = add(&lacking, true, -1);
        add(&rows, false, 1);
        let ops = rows.column(0).as_string::<i32>();
        let kept = ops.iter().filter(|op| *op == Some("d")).count();
        assert_eq!(kept, if scope == Scope::Kept { gone } else { 0 });
    }
    table.retain(|_, rows| *rows != 0);
    after.retain(|_, rows| *rows != 0);
    assert_eq!(after, table, "seed {seed}, {budget}");
}

#[test]
fn of_n_equal_rows_of_which_k_are_deleted_there_are_k_fewer() {
    for seed in 0..30 {
        for budget in [1, 64 << 20] {
            counted(seed, Scope::Stream, budget);
            counted(seed, Scope::Kept, budget);
        }
    }
}

/// The same batch, these rows of it being changes of a key.
fn moving(batch: &RecordBatch, moves: &[usize]) -> RecordBatch {
    let bits = batch.column(3).as_binary::<i32>();
    let said = (0..batch.num_rows()).map(|row| {
        let known = bits.is_valid(row).then(|| unchanged(bits.value(row)));
        let flag = moves.contains(&row).then_some(3);
        let bits = unchanged_bits(known.into_iter().flatten().chain(flag));
        Some(bits).filter(|bits| !bits.is_empty())
    });
    let mut columns = batch.columns().to_vec();
    columns[3] = Arc::new(said.collect::<BinaryArray>());
    RecordBatch::try_new(batch.schema(), columns).unwrap()
}

/// A row of a table whose keys change: its values, and of each the key under which
/// the table had it before; none: the stream says it.
#[derive(Clone)]
struct Moving {
    values: [String; 2],
    from: [Option<i64>; 2],
}

fn keys_that_change(seed: u64) {
    let mut next = random(seed);
    let before: BTreeMap<i64, [String; 2]> =
        (0..20).map(|key| (key, [format!("v{key}"), format!("w{key}")])).collect();
    let there = |(key, values): (&i64, &[String; 2])| {
        (*key, Moving { values: values.clone(), from: [Some(*key); 2] })
    };
    let mut table: BTreeMap<i64, Moving> = before.iter().map(there).collect();
    let (mut batches, mut touched) = (Vec::new(), BTreeMap::new());
    for statement in 0..40 {
        let (mut changes, mut moves): (Vec<Long>, Vec<usize>) = Default::default();
        for number in 0..next(6) {
            let (key, other) = (next(30) as i64, next(30) as i64);
            let Some(mut row) = table.remove(&key) else { continue };
            let set = (next(2) == 0).then(|| format!("{statement}-{number}"));
            if let Some(value) = &set {
                (row.values[0], row.from[0]) = (value.clone(), None);
            }
            let to = if next(2) == 0 || table.contains_key(&other) { key } else { other };
            if to != key {
                moves.extend([changes.len(), changes.len() + 1]);
                changes.push(("d", 1, key, [None, None]));
                touched.insert(key, ());
            }
            changes.push(("u", 1, to, [set, None]));
            touched.insert(to, ());
            table.insert(to, row);
        }
        if !changes.is_empty() {
            let split = next(changes.len() as u64) as usize;
            // The two changes of a move may come in two batches.
            let (batch, rest) = (moving(&long_batch(&changes), &moves), changes.len() - split);
            batches.extend([batch.slice(0, split), batch.slice(split, rest)]);
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let key = ["k".to_owned()];
    let mut reducer =
        Reducer::new(Scope::Stream, long_schema(), &key, dir.path(), 64 << 20).unwrap();
    batches.iter().for_each(|batch| reducer.push(batch).unwrap());
    let mut found = BTreeMap::new();
    for reduced in reducer.finish().unwrap() {
        let Reduced { rows, lacking, from, .. } = reduced.unwrap();
        let keys = |batch: &RecordBatch, at: usize| {
            batch.column(at).as_primitive::<Int64Type>().values().to_vec()
        };
        let origins = from.map_or_else(|| keys(&lacking, 4), |from| keys(&from, 0));
        for (batch, origins) in [(&rows, None), (&lacking, Some(origins))] {
            for (row, key) in keys(batch, 4).into_iter().enumerate() {
                let expected = &table[&key];
                let bits = batch.column(3).as_binary::<i32>();
                let lacks = bits.is_valid(row).then(|| unchanged(bits.value(row)));
                let lacks: Vec<usize> = lacks.into_iter().flatten().map(|at| at - 1).collect();
                for (at, expected) in expected.values.iter().enumerate() {
                    let value = match (lacks.contains(&at), &origins) {
                        (false, _) => batch.column(5 + at).as_string::<i32>().value(row),
                        (true, Some(origins)) => &before[&origins[row]][at],
                        (true, None) => continue,
                    };
                    assert_eq!(value, expected, "seed {seed}, key {key}");
                }
                // What stays unknown the stream has changed under another key.
                let said = lacks.iter().any(|at| expected.from[*at].is_none());
                assert!(origins.is_some() || lacks.is_empty() || said, "seed {seed}, key {key}");
                assert_eq!(found.insert(key, ()), None, "a key has one row");
            }
        }
    }
    let live = touched.keys().filter(|key| table.contains_key(key));
    assert_eq!(found.keys().collect::<Vec<_>>(), live.collect::<Vec<_>>(), "seed {seed}");
}

#[test]
fn values_of_a_row_that_got_another_key_are_those_of_the_key_that_it_had_in_the_table() {
    (0..200).for_each(keys_that_change);
}
