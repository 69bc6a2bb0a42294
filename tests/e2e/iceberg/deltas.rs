//! Appends and row deltas over the writer's own protocol, against what the same
//! changes make of a map.

mod keys;

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, ensure};
use arrow::array::{
    ArrayRef, FixedSizeBinaryArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use proto::Fault;
use proto::v1::commit_request::Mode;
use proto::v1::stage_request::Kind;
use proto::v1::{
    CommitRequest, CommitResponse, Destination, ErrorCode, PrepareRequest, StageRequest,
    StagedChunk, Table as WireTable, destination,
};
use serde_json::json;
use tests::changes::Writer;
use tests::compare::{self, Cell, Rows};
use tests::iceberg::engine::Engine;
use tests::iceberg::pair::{Catalog, Pair, Store};
use tests::iceberg::table::Table;
use tests::iceberg::warehouse::{CATALOG_NAME, Warehouse};
use tests::services::Service;
use tests::truth::destination_name;

const ON_FILES: Pair = Pair::new(Catalog::Sqlite, Store::Local);

/// A row of the table: `id` is the key.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    kind: String,
    tag: u128,
    value: Option<String>,
    op: &'static str,
}

/// A table, what it should hold, and a writer.
struct Changing {
    warehouse: Warehouse,
    _service: Service,
    writer: Writer,
    destination: Destination,
    table: WireTable,
    rows: BTreeMap<i64, Row>,
    /// Of the last commit.
    commit_id: String,
    /// Where the rows lie that are staged shall be told.
    report_keys: bool,
}

/// One commit's changes: the rows that are new, and the keys that go.
#[derive(Default)]
struct Changes {
    upserts: Vec<(i64, Row)>,
    deletes: Vec<i64>,
}

fn row(id: i64, version: &str, op: &'static str) -> Row {
    Row {
        kind: format!("k{}", (id + version.len() as i64) % 3),
        tag: u128::from(id.unsigned_abs() % 5) << 125 | 7,
        value: (id % 4 > 0).then(|| format!("{version} {id}")),
        op,
    }
}

impl Changing {
    fn new(pair: Pair, partition_regex: &str, format_version: u32) -> Result<Changing> {
        let warehouse = Warehouse::start(pair)?;
        let service = Service::writer(&[])?;
        let writer = Writer::connect(&service)?;
        let iceberg = proto::v1::Iceberg { format_version, ..warehouse.wire() };
        // Some catalogs serve several tests at once.
        let unique = warehouse.directory().file_name().unwrap_or_default().to_string_lossy();
        let table = WireTable {
            database: destination_name(&unique),
            name: "t".into(),
            key_columns: vec!["Id".into()],
            normalization: true,
            partition_regex: partition_regex.into(),
            stream: "public.t".into(),
            soft_deletes: false,
        };
        Ok(Changing {
            warehouse,
            _service: service,
            writer,
            destination: Destination { kind: Some(destination::Kind::Iceberg(iceberg)) },
            table,
            rows: BTreeMap::new(),
            commit_id: String::new(),
            report_keys: false,
        })
    }

    fn stage(
        &self,
        load: &str,
        chunk: u32,
        kind: Kind,
        batch: &RecordBatch,
    ) -> Result<StagedChunk> {
        let request = StageRequest {
            destination: Some(self.destination.clone()),
            table: Some(self.table.clone()),
            load_id: load.into(),
            chunk_id: chunk,
            settings_hash: "hash".into(),
            processed_at: 1_750_000_000_000_000,
            op_type: "r".into(),
            kind: kind.into(),
            row_metadata: matches!(kind, Kind::Data | Kind::Changes),
            inserts_replace: false,
            report_keys: self.report_keys && matches!(kind, Kind::Data | Kind::Changes),
        };
        self.writer.stage(&request, batch)
    }

    fn request(&self, mode: Mode, commit_id: &str, staged: Vec<StagedChunk>) -> CommitRequest {
        CommitRequest {
            destination: Some(self.destination.clone()),
            table: Some(self.table.clone()),
            commit_id: commit_id.into(),
            load_id: commit_id.into(),
            mode: mode.into(),
            staged,
            position: format!("0/{commit_id}"),
            expected_commit_id: Some(self.commit_id.clone()),
        }
    }

    /// Commits, and does the same to the map.
    fn commit(&mut self, mode: Mode, commit_id: &str, changes: Changes) -> Result<CommitResponse> {
        let mut staged = Vec::new();
        if !changes.upserts.is_empty() || mode != Mode::RowDelta {
            staged.push(self.stage(commit_id, 0, Kind::Data, &data(&changes.upserts))?);
        }
        if mode == Mode::RowDelta {
            let changed = changes.upserts.iter().map(|(id, _)| *id);
            let keys: Int64Array = changed.chain(changes.deletes.iter().copied()).collect();
            let schema = Schema::new(vec![Field::new("Id", DataType::Int64, false)]);
            let batch = RecordBatch::try_new(Arc::new(schema), vec![Arc::new(keys)])?;
            staged.push(self.stage(commit_id, 1, Kind::EqualityDeletes, &batch)?);
        }
        let request = self.request(mode, commit_id, staged);
        let response = self.writer.commit(request).map_err(|fault| anyhow!("{fault}"))?;
        self.commit_id = commit_id.to_owned();
        for id in changes.deletes {
            self.rows.remove(&id);
        }
        self.rows.extend(changes.upserts);
        Ok(response)
    }

    fn lake_table(&self) -> Table {
        self.warehouse.table(&format!("{}.{}", self.table.database, self.table.name))
    }

    /// The engines that apply the table's deletes.
    fn deleting(&self) -> Vec<Engine> {
        let is_partitioned = !self.table.partition_regex.is_empty();
        let engines = Engine::ALL.into_iter();
        engines.filter(|engine| engine.applies_equality_deletes(is_partitioned)).collect()
    }

    /// Each of the engines reads what the map has.
    fn equals(&self, engines: &[Engine]) -> Result<()> {
        let columns =
            ["id", "kind", "tag", "value", "_olake_id", "_op_type", "_cdc_timestamp", "_cdc_lsn"];
        let columns = columns.map(str::to_owned);
        let text = |text: &str| Cell::text(text);
        let rows = self.rows.iter().map(|(id, row)| {
            vec![
                text(&id.to_string()),
                text(&row.kind),
                text(&uuid(row.tag)),
                row.value.as_deref().map_or(Cell::Null, text),
                text(&id.to_string()),
                text(row.op),
                text("2024-02-29 12:00:00.000001+00"),
                text(&format!("0/{id:X}")),
            ]
        });
        let expected = Rows { columns: columns.clone().into(), rows: rows.collect() };
        for &engine in engines {
            let found = self.lake_table().read(engine)?.rows.project(&columns)?;
            compare::same_rows(&expected, &found, &["id".to_owned()])
                .with_context(|| format!("read by {engine:?}"))?;
        }
        Ok(())
    }
}

fn uuid(tag: u128) -> String {
    let hex = format!("{tag:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// Rows with what is said of each.
fn data(rows: &[(i64, Row)]) -> RecordBatch {
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let tag = Field::new("tag", DataType::FixedSizeBinary(16), true)
        .with_metadata([("ARROW:extension:name".to_owned(), "arrow.uuid".to_owned())].into());
    let schema = Schema::new(vec![
        Field::new("_op_type", DataType::Utf8, false),
        Field::new("_cdc_timestamp", utc, true),
        Field::new("_cdc_lsn", DataType::Utf8, true),
        Field::new("Id", DataType::Int64, false),
        Field::new("kind", DataType::Utf8, true),
        tag,
        Field::new("value", DataType::Utf8, true),
    ]);
    let texts = |of: &dyn Fn(&(i64, Row)) -> Option<String>| -> ArrayRef {
        Arc::new(rows.iter().map(of).collect::<StringArray>())
    };
    let tags = rows.iter().map(|(_, row)| Some(row.tag.to_be_bytes()));
    let tags = FixedSizeBinaryArray::try_from_sparse_iter_with_size(tags, 16);
    let at = TimestampMicrosecondArray::from_value(1_709_208_000_000_001, rows.len());
    let columns: Vec<ArrayRef> = vec![
        texts(&|(_, row)| Some(row.op.to_owned())),
        Arc::new(at.with_timezone("UTC")),
        texts(&|(id, _)| Some(format!("0/{id:X}"))),
        Arc::new(rows.iter().map(|(id, _)| *id).collect::<Int64Array>()),
        texts(&|(_, row)| Some(row.kind.clone())),
        Arc::new(tags.expect("16 bytes each")),
        texts(&|(_, row)| row.value.clone()),
    ];
    RecordBatch::try_new(Arc::new(schema), columns).expect("a batch of its schema")
}

/// Position deletes.
fn places_of(paths: Vec<String>, positions: Vec<i64>) -> Result<RecordBatch> {
    let schema = Schema::new(vec![
        Field::new("file_path", DataType::Utf8, false),
        Field::new("pos", DataType::Int64, false),
    ]);
    let columns: Vec<ArrayRef> =
        vec![Arc::new(StringArray::from(paths)), Arc::new(Int64Array::from(positions))];
    Ok(RecordBatch::try_new(Arc::new(schema), columns)?)
}

fn inserts(ids: std::ops::Range<i64>) -> Changes {
    Changes { upserts: ids.map(|id| (id, row(id, "first", "c"))).collect(), deletes: Vec::new() }
}

/// Appends, updates (into other partitions, too), deletes, keys that come back.
fn a_history(pair: Pair, partition_regex: &str, format_version: u32) -> Result<Changing> {
    let mut table = Changing::new(pair, partition_regex, format_version)?;
    table.commit(Mode::Replace, "c1", inserts(0..40))?;
    table.commit(Mode::Append, "c2", inserts(40..60))?;
    table.equals(&Engine::ALL)?;
    let updated = (10..30).map(|id| (id, row(id, "the second", "u"))).collect();
    table.commit(Mode::RowDelta, "c3", Changes { upserts: updated, deletes: vec![0, 1, 59] })?;
    table.equals(&table.deleting())?;
    table.commit(
        Mode::RowDelta,
        "c4",
        Changes { upserts: Vec::new(), deletes: (2..12).collect() },
    )?;
    table.equals(&table.deleting())?;
    let back = vec![(0, row(0, "again", "c")), (11, row(11, "again", "c"))];
    table.commit(Mode::RowDelta, "c5", Changes { upserts: back, deletes: vec![-1] })?;
    table.commit(Mode::Append, "c6", inserts(100..101))?;
    table.equals(&table.deleting())?;
    Ok(table)
}

fn operations(table: &Changing) -> Result<Vec<String>> {
    let mut snapshots = table.lake_table().describe()?.snapshots;
    snapshots.sort_by_key(|snapshot| snapshot.sequence_number);
    Ok(snapshots.into_iter().filter_map(|snapshot| snapshot.operation).collect())
}

#[test]
fn changes_of_a_table_equal_the_same_changes_of_a_map() -> Result<()> {
    let table = a_history(ON_FILES, "", 2)?;
    let expected = ["append", "append", "overwrite", "delete", "overwrite", "append"];
    assert_eq!(operations(&table)?, expected);
    let described = table.lake_table().describe()?;
    let sum = |content: &str, of: fn(&tests::iceberg::table::File) -> u64| -> String {
        described
            .files
            .iter()
            .filter(|file| file.content == content)
            .map(of)
            .sum::<u64>()
            .to_string()
    };
    let summary = &described.current()?.summary;
    assert_eq!(summary["total-records"], sum("data", |file| file.records));
    assert_eq!(summary["total-equality-deletes"], sum("equality_deletes", |file| file.records));
    assert_eq!(summary["total-delete-files"], sum("equality_deletes", |_| 1));
    let bytes: u64 = described.files.iter().map(|file| file.bytes).sum();
    assert_eq!(summary["total-files-size"], bytes.to_string());
    Ok(())
}

#[test]
fn changes_of_a_partitioned_table_leave_no_row_in_another_partition() -> Result<()> {
    for regex in ["/{kind, identity}", "/{tag, bucket[3]}/{kind, truncate[1]}"] {
        let table = a_history(ON_FILES, regex, 2).with_context(|| regex.to_owned())?;
        let described = table.lake_table().describe()?;
        assert!(!described.partition.is_empty());
        let deletes = described.manifests.iter().filter(|it| it.content == "deletes");
        let data = described.manifests.iter().filter(|it| it.content == "data");
        let specs: Vec<_> = data.map(|it| it.spec_id).collect();
        assert!(deletes.clone().count() > 0);
        for delete in deletes {
            assert!(!specs.contains(&delete.spec_id), "{delete:?}");
        }
        // Engines that prune find what is there.
        for engine in table.deleting() {
            let kinds = table.rows.values().filter(|row| row.kind == "k1").count() as u64;
            assert_eq!(table.lake_table().count(engine, "kind = 'k1'")?, kinds, "{engine:?}");
        }
    }
    Ok(())
}

pub fn appends_and_row_deltas_equal_the_same_changes_of_a_map(pair: Pair) -> Result<()> {
    a_history(pair, "/{kind, identity}", 2).map(drop)
}

#[test]
fn changes_of_a_table_of_the_third_format_version_are_read() -> Result<()> {
    let mut table = Changing::new(ON_FILES, "/{kind, identity}", 3)?;
    table.commit(Mode::Replace, "c1", inserts(0..40))?;
    table.commit(Mode::Append, "c2", inserts(40..60))?;
    table.equals(&[Engine::PyIceberg, Engine::DuckDb])?;
    assert_eq!(table.lake_table().describe()?.format_version, 3);
    let updated = (10..30).map(|id| (id, row(id, "the second", "u"))).collect();
    table.commit(Mode::RowDelta, "c3", Changes { upserts: updated, deletes: vec![0, 1, 59] })?;
    table.equals(&table.deleting())
}

#[test]
fn rows_are_deleted_by_their_places_for_every_reader() -> Result<()> {
    for regex in ["", "/{kind, identity}"] {
        let mut table = Changing::new(ON_FILES, regex, 2)?;
        table.commit(Mode::Replace, "c1", inserts(0..40))?;
        let files = table.lake_table().describe()?.files;
        // Of each file the first row and every third, by what the engines say of it.
        let (mut paths, mut positions) = (Vec::new(), Vec::new());
        for file in &files {
            for position in (0..file.records as i64).step_by(3) {
                paths.push(file.path.clone());
                positions.push(position);
            }
        }
        let of = |file: &str| -> Vec<i64> {
            let kind = |row: &Row| {
                files.iter().find(|it| it.path == file).is_some_and(|it| {
                    it.partition.get("kind").is_none_or(|kind| kind.as_ref() == Some(&row.kind))
                        && it
                            .partition
                            .get("tag")
                            .is_none_or(|tag| tag.as_ref() == Some(&uuid(row.tag)))
                })
            };
            table.rows.iter().filter(|(_, row)| kind(row)).map(|(id, _)| *id).collect()
        };
        let gone: Vec<i64> = paths
            .iter()
            .zip(&positions)
            .map(|(path, position)| of(path)[*position as usize])
            .collect();
        let batch = places_of(paths, positions)?;
        let staged = vec![
            table.stage("c2", 0, Kind::PositionDeletes, &batch)?,
            table.stage("c2", 1, Kind::Data, &data(&inserts(40..45).upserts))?,
        ];
        let request = table.request(Mode::RowDelta, "c2", staged);
        table.writer.commit(request).map_err(|fault| anyhow!("{fault}"))?;
        table.commit_id = "c2".to_owned();
        table.rows.retain(|id, _| !gone.contains(id));
        table.rows.extend(inserts(40..45).upserts);
        table.equals(&Engine::ALL).with_context(|| regex.to_owned())?;
        let summary = table.lake_table().describe()?.current()?.summary.clone();
        assert_eq!(summary["added-position-deletes"], gone.len().to_string());

        // The files that the places are in are gone.
        table.lake_table().rewrite()?;
        let late = table.stage("c3", 0, Kind::PositionDeletes, &batch)?;
        let late = table.request(Mode::RowDelta, "c3", vec![late]);
        let refused = table.writer.commit(late).expect_err("of files that are gone");
        assert!(refused.message.contains("holds no data file"), "{refused}");
        table.equals(&Engine::ALL)?;
    }
    Ok(())
}

#[test]
fn merged_manifests_are_read_as_the_small_ones_were() -> Result<()> {
    let mut table = Changing::new(ON_FILES, "/{kind, identity}", 2)?;
    table.commit(Mode::Replace, "c0", inserts(0..10))?;
    let lake = table.lake_table();
    lake.set_properties(json!({"commit.manifest.min-count-to-merge": "6"}))?;
    for at in 1..30 {
        let updated = (at..at + 3).map(|id| (id, row(id, &"x".repeat(at as usize), "u")));
        let deletes = if at % 4 == 0 { vec![at + 3] } else { Vec::new() };
        let changes = Changes { upserts: updated.collect(), deletes };
        table.commit(Mode::RowDelta, &format!("c{at}"), changes)?;
        let manifests = lake.describe()?.manifests;
        ensure!(manifests.len() <= 8, "{manifests:?}");
    }
    table.equals(&table.deleting())?;
    for engine in table.deleting() {
        let kinds = table.rows.values().filter(|row| row.kind == "k0").count() as u64;
        assert_eq!(lake.count(engine, "kind = 'k0'")?, kinds, "{engine:?}");
    }
    assert!(lake.describe()?.manifests.iter().any(|it| it.existing > 10));
    // A refresh removes all of it.
    table.rows.clear();
    table.commit(Mode::Replace, "c30", inserts(0..5))?;
    table.equals(&Engine::ALL)
}

#[test]
fn a_compaction_by_others_ends_equality_deletes_and_we_go_on() -> Result<()> {
    let mut table = a_history(Pair::new(Catalog::Postgres, Store::Local), "/{kind, identity}", 2)?;
    let lake = table.lake_table();
    let deletes = || -> Result<usize> {
        let files = lake.describe()?.files;
        Ok(files.iter().filter(|file| file.content == "equality_deletes").count())
    };
    assert!(deletes()? > 0);
    table.warehouse.spark(&[format!(
        "CALL {CATALOG_NAME}.system.rewrite_data_files(table => '{}', \
         options => map('rewrite-all', 'true'))",
        lake.name()
    )])?;
    let updated = (30..40).map(|id| (id, row(id, "after it", "u"))).collect();
    table.commit(Mode::RowDelta, "c7", Changes { upserts: updated, deletes: vec![13] })?;
    table.equals(&table.deleting())?;
    assert_eq!(deletes()?, 1, "those of before reach nothing");
    // A refresh leaves none.
    table.rows.clear();
    table.commit(Mode::Replace, "c8", inserts(0..5))?;
    assert_eq!(deletes()?, 0);
    table.equals(&Engine::ALL)
}

#[test]
fn rows_that_are_json_are_deleted_by_their_identifier() -> Result<()> {
    let mut table = Changing::new(ON_FILES, "", 2)?;
    table.table.normalization = false;
    table.commit(Mode::Replace, "c1", inserts(0..40))?;
    let updated = (10..30).map(|id| (id, row(id, "the second", "u"))).collect();
    table.commit(Mode::RowDelta, "c2", Changes { upserts: updated, deletes: vec![0, 1] })?;
    for engine in table.deleting() {
        let rows = table.lake_table().read(engine)?.rows;
        let mut found = Vec::new();
        for cell in rows.column("data")? {
            let json: serde_json::Value = serde_json::from_str(cell.as_str().unwrap_or_default())?;
            found.push((json["Id"].as_i64(), json["value"].as_str().map(str::to_owned)));
        }
        found.sort();
        let expected: Vec<_> =
            table.rows.iter().map(|(id, row)| (Some(*id), row.value.clone())).collect();
        assert_eq!(found, expected, "{engine:?}");
    }
    Ok(())
}

#[test]
fn a_commit_from_another_base_is_a_conflict_and_the_position_is_told() -> Result<()> {
    let mut table = Changing::new(ON_FILES, "", 2)?;
    table.commit(Mode::Append, "c1", inserts(0..10))?;
    let staged = vec![table.stage("late", 0, Kind::Data, &data(&inserts(10..20).upserts))?];
    let late = table.request(Mode::Append, "late", staged);
    table.commit(Mode::Append, "c2", inserts(10..12))?;
    let refused: Fault = table.writer.commit(late).expect_err("from a base that is gone");
    assert_eq!((refused.code, refused.transient), (ErrorCode::Conflict, false), "{refused}");
    table.equals(&Engine::ALL)?;
    let prepare = PrepareRequest {
        destination: Some(table.destination.clone()),
        table: Some(table.table.clone()),
        ..Default::default()
    };
    let told = table.writer.prepare(prepare).map_err(|fault| anyhow!("{fault}"))?;
    let last = told.last_commit.context("a commit")?;
    assert_eq!((last.commit_id.as_str(), last.position.as_str()), ("c2", "0/c2"));
    Ok(())
}
