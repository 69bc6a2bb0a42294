//! What the Iceberg tests stand on, shown right without anything of ours:
//! PyIceberg writes, every engine reads, and a difference is a difference.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::compare::{Cell, Rows, same_rows};
use tests::iceberg::engine::Engine;
use tests::iceberg::glue::Glue;
use tests::iceberg::pair::{Catalog, Pair, Store};
use tests::iceberg::seaweed::Seaweed;
use tests::iceberg::spark::Spark;
use tests::iceberg::warehouse::Warehouse;
use tests::proxy::{Fault, Proxy};
use tests::run::{poll, signal};

/// (column, type, its values from the first row on; the rest is null)
const EDGES: [(&str, &str, &[&str]); 17] = [
    ("b", "boolean", &["t", "f"]),
    ("i", "int", &["0", "-2147483648", "2147483647"]),
    ("l", "long", &["0", "-9223372036854775808", "9223372036854775807"]),
    ("f", "float", &["0x80000000", "NaN", "0x7f800000", "0xff800000", "0x00000001"]),
    (
        "d",
        "double",
        &[
            "0x8000000000000000",
            "NaN",
            "0x7ff0000000000000",
            "0xfff0000000000000",
            "0x0000000000000001",
        ],
    ),
    ("n9", "decimal(9,2)", &["1234567.89", "-0.01", "0.00"]),
    ("n18", "decimal(18,9)", &["123456789.987654321", "-0.000000001"]),
    (
        "n38",
        "decimal(38,10)",
        &["9999999999999999999999999999.9999999999", "-9999999999999999999999999999.9999999999"],
    ),
    ("n38_38", "decimal(38,38)", &["0.99999999999999999999999999999999999999"]),
    (
        "u",
        "uuid",
        &["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"],
    ),
    ("x", "fixed[3]", &["\\x000102"]),
    ("y", "binary", &["\\x", "\\x00", "\\xdeadbeef"]),
    ("s", "string", &["", "NULL", "a\nb\u{1}\u{7f}", "😀 𝄞 ü ß 中文"]),
    (
        "day",
        "date",
        &[
            "1970-01-01",
            "1969-12-31",
            "0001-01-01",
            "0001-12-31 BC",
            "9999-12-31",
            "5874897-12-31",
            "4713-01-01 BC",
        ],
    ),
    ("clock", "time", &["00:00:00", "23:59:59.999999", "00:00:00.000001"]),
    (
        "local",
        "timestamp",
        &[
            "1970-01-01 00:00:00",
            "1969-12-31 23:59:59.999999",
            "0001-12-31 23:59:59.5 BC",
            "4713-01-01 00:00:00 BC",
            "294246-12-31 23:59:59.999999",
        ],
    ),
    (
        "utc",
        "timestamptz",
        &[
            "1970-01-01 00:00:00+00",
            "1969-12-31 23:59:59.999999+00",
            "0044-03-15 12:00:00+00 BC",
            "294246-12-31 23:59:59.999999+00",
        ],
    ),
];

/// Each type of [`EDGES`] by itself and in a list; the last row is null.
fn edges() -> (Vec<(String, String)>, Rows) {
    let length = EDGES.iter().map(|(_, _, values)| values.len()).max().unwrap_or(0) + 1;
    let mut columns = vec![("id".to_owned(), "int".to_owned())];
    let mut cells: Vec<Vec<Cell>> =
        vec![(0..length).map(|row| Cell::Text(row.to_string())).collect()];
    for (name, kind, values) in EDGES {
        columns.push((name.to_owned(), kind.to_owned()));
        let mut column: Vec<Cell> = values.iter().map(|value| Cell::text(*value)).collect();
        column.resize(length, Cell::Null);
        cells.push(column.clone());
        columns.push((format!("{name}_list"), format!("list<{kind}>")));
        // Empty, all with a null among them, null.
        let mut lists = vec![Cell::List(Vec::new()), Cell::List(column)];
        lists.resize(length, Cell::Null);
        cells.push(lists);
    }
    let rows = (0..length).map(|row| cells.iter().map(|column| column[row].clone()).collect());
    let rows = Rows {
        columns: columns.iter().map(|(name, _)| name.clone()).collect(),
        rows: rows.collect(),
    };
    (columns, rows)
}

/// PyIceberg cannot make bounds of dates beyond Python's.
fn without_bounds() -> serde_json::Value {
    json!({"write.metadata.metrics.default": "none"})
}

fn every_type_is_read_back(pair: Pair) -> Result<()> {
    let warehouse = Warehouse::start(pair)?;
    // Catalogs are shared by tests.
    let namespace = format!("proof_on_{:?}", pair.store).to_lowercase();
    let table = warehouse.table(&format!("{namespace}.edges"));
    let (columns, rows) = edges();
    let named: Vec<(&str, &str)> =
        columns.iter().map(|(name, kind)| (name.as_str(), kind.as_str())).collect();
    table.create(&named, &[], without_bounds())?;
    table.append(&rows)?;
    let described = table.describe()?;
    let kinds: Vec<String> = columns.iter().map(|(_, kind)| kind.clone()).collect();
    assert_eq!(described.kinds(), kinds);
    for engine in Engine::ALL {
        let found = table.read(engine).with_context(|| format!("{pair} by {engine:?}"))?;
        let told = engine.tells(&rows, &kinds);
        same_rows(&told, &found.rows, &["id".to_owned()])
            .with_context(|| format!("{pair} by {engine:?}"))?;
        // A value that is another one is seen, in every column.
        for (at, (column, _)) in columns.iter().enumerate().skip(1) {
            let mut wrong = told.clone();
            wrong.rows[0][at] = Cell::text("another");
            let seen = same_rows(&wrong, &found.rows, &["id".to_owned()]);
            let seen = format!("{:#}", seen.err().context("a difference was not seen")?);
            ensure!(seen.contains(&format!("{column} at (\"0\")")), "{seen}");
        }
    }
    assert_eq!(warehouse.tables(&namespace)?, Some(vec!["edges".to_owned()]));
    let files = warehouse.files(&described.location)?;
    assert!(files.iter().any(|file| file.ends_with(".parquet")), "{files:?}");
    table.drop_with_files()?;
    assert_eq!(warehouse.tables(&namespace)?, Some(Vec::new()));
    Ok(())
}

macro_rules! for_every_pair {
    ($($name:ident: $catalog:ident, $store:ident;)*) => {$(
        #[test]
        fn $name() -> Result<()> {
            every_type_is_read_back(Pair::new(Catalog::$catalog, Store::$store))
        }
    )*};
}

for_every_pair! {
    every_type_through_sqlite_on_files: Sqlite, Local;
    every_type_through_sqlite_on_s3: Sqlite, S3;
    every_type_through_postgres_on_files: Postgres, Local;
    every_type_through_postgres_on_s3: Postgres, S3;
    every_type_through_rest_on_s3: Rest, S3;
    every_type_through_glue_on_files: Glue, Local;
    every_type_through_glue_on_s3: Glue, S3;
    every_type_through_hive_on_files: Hive, Local;
    every_type_through_hive_on_s3: Hive, S3;
    every_type_through_java_rest_on_files: JavaRest, Local;
    every_type_through_java_rest_on_s3: JavaRest, S3;
}

/// A table of one column with the rows "1" to "3".
fn small(warehouse: &Warehouse, name: &str) -> Result<tests::iceberg::table::Table> {
    let table = warehouse.table(name);
    table.create(&[("id", "int")], &[], json!({}))?;
    table.append(&numbers(&["1", "2", "3"]))?;
    Ok(table)
}

fn numbers(ids: &[&str]) -> Rows {
    let rows = ids.iter().map(|id| vec![Cell::text(*id)]).collect();
    Rows { columns: vec!["id".to_owned()], rows }
}

#[test]
fn what_a_table_s_metadata_says_is_read() -> Result<()> {
    let warehouse = Warehouse::start(Pair::new(Catalog::Sqlite, Store::Local))?;
    let table = warehouse.table("described.t");
    table.create(
        &[("id", "int"), ("moment", "timestamptz"), ("word", "string")],
        &[("moment", "month"), ("id", "bucket[2]")],
        json!({"owner": "somebody"}),
    )?;
    let rows = (0..40).map(|id| {
        let moment = format!("2024-0{}-29 12:00:00.5+00", id % 2 + 1);
        vec![Cell::Text(id.to_string()), Cell::Text(moment), Cell::Null]
    });
    let columns = ["id", "moment", "word"].map(str::to_owned).to_vec();
    table.append(&Rows { columns, rows: rows.collect() })?;

    let before = table.describe()?;
    assert_eq!(before.properties.get("owner").map(String::as_str), Some("somebody"));
    assert_eq!(before.schema.iter().map(|field| field.id).collect::<Vec<_>>(), [1, 2, 3]);
    let transforms: Vec<&str> =
        before.partition.iter().map(|field| field.transform.as_str()).collect();
    assert_eq!(transforms, ["month", "bucket[2]"]);
    assert_eq!(before.files.len(), 4, "two months in two buckets");
    assert_eq!(before.data_files().map(|file| file.records).sum::<u64>(), 40);
    assert_eq!(before.current()?.operation.as_deref(), Some("append"));
    assert_eq!(before.current()?.summary["added-records"], "40");
    let january = before.files.iter().find(|file| file.upper["moment"].as_str() < "2024-02");
    let january = january.context("a file of January")?;
    assert_eq!(january.lower["moment"], "2024-01-29 12:00:00.5+00");
    assert_eq!(january.nulls["word"], january.records);

    let planned = table.plans(&["moment < '2024-02-01T00:00:00+00:00'", "id < 0"])?;
    assert_eq!(planned.iter().map(Vec::len).collect::<Vec<_>>(), [2, 0], "{planned:?}");
    for engine in Engine::ALL {
        let condition = "moment < '2024-02-01T00:00:00+00:00' and id >= 10 and word is null";
        assert_eq!(table.count(engine, condition)?, 15, "{engine:?}");
    }

    table.rewrite()?;
    let after = table.describe()?;
    assert!(after.snapshots.len() > before.snapshots.len());
    assert!(after.files.iter().all(|file| before.files.iter().all(|old| old.path != file.path)));
    assert_eq!(table.count(Engine::DuckDb, "id >= 0")?, 40);
    Ok(())
}

#[test]
fn a_proxy_loses_the_answer_to_a_commit_that_happened() -> Result<()> {
    let warehouse = Warehouse::start(Pair::new(Catalog::Rest, Store::S3))?;
    let table = small(&warehouse, "lost_answer.t")?;
    let proxy = Proxy::start(&warehouse.catalog_address().context("an address")?)?;
    let through = warehouse.table_through(&proxy, "lost_answer.t");
    assert_eq!(through.count(Engine::PyIceberg, "id > 0")?, 3);

    let lost = proxy.once("POST /v1/warehouse/namespaces/lost_answer/tables/t", Fault::LoseAnswer);
    through.append(&numbers(&["4"])).expect_err("the client cannot know");
    lost.met()?;
    assert_eq!(table.count(Engine::PyIceberg, "id = 4")?, 1, "it happened");

    let lost = proxy.once("POST /v1/warehouse/namespaces/lost_answer/tables/t", Fault::LoseRequest);
    through.append(&numbers(&["5"])).expect_err("the client cannot know");
    lost.met()?;
    assert_eq!(table.count(Engine::PyIceberg, "id = 5")?, 0, "it did not happen");

    proxy.down(true);
    through.describe().expect_err("the catalog is down");
    proxy.down(false);
    assert_eq!(through.describe()?.snapshots.len(), 2);
    Ok(())
}

#[test]
fn a_proxy_holds_a_commit_while_another_one_happens() -> Result<()> {
    let warehouse = Warehouse::start(Pair::new(Catalog::Glue, Store::Local))?;
    let table = small(&warehouse, "held.t")?;
    let proxy = Proxy::start(&warehouse.catalog_address().context("an address")?)?;
    let held = proxy.once("AWSGlue.UpdateTable", Fault::Hold);
    let through = warehouse.table_through(&proxy, "held.t");
    std::thread::scope(|scope| {
        let late = scope.spawn(|| through.append(&numbers(&["4"])));
        held.met()?;
        table.append(&numbers(&["5"]))?;
        assert_eq!(table.count(Engine::PyIceberg, "id = 4")?, 0, "it is held");
        held.release();
        late.join().expect("the thread does not panic")
    })?;
    // Refused because its version was stale, it was tried again: so Glue is
    // strict, and both are in.
    let described = table.describe()?;
    assert_eq!(described.snapshots.len(), 3);
    assert_eq!(table.count(Engine::DuckDb, "id in (4, 5)")?, 2);
    Ok(())
}

#[test]
fn servers_leave_nothing_behind() -> Result<()> {
    let (seaweed, glue) = (Seaweed::start()?, Glue::start()?);
    let addresses = [seaweed.s3().to_owned(), seaweed.rest().to_owned(), glue.address().to_owned()];
    let left = |addresses: &[String]| -> Result<Vec<String>> {
        let mut left = Vec::new();
        for address in addresses {
            if std::net::TcpStream::connect(address).is_ok() {
                left.push(address.clone());
            }
        }
        let port = addresses[0].rsplit(':').next().context("a port")?;
        for entry in std::fs::read_dir("/tmp")?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name == format!("seaweedfs-s3-{port}.sock") {
                left.push(name);
            }
        }
        Ok(left)
    };
    assert_eq!(left(&addresses)?.len(), 4, "it is known what to look for");
    drop((seaweed, glue));
    assert_eq!(left(&addresses)?, Vec::<String>::new());
    Ok(())
}

/// Processes that were started with this path in their arguments: (id, program).
fn processes_of(path: &std::path::Path) -> Result<Vec<(u32, String)>> {
    let path = path.to_string_lossy();
    let mut found = Vec::new();
    for process in procfs::process::all_processes()?.flatten() {
        let Ok(arguments) = process.cmdline() else { continue };
        if arguments.iter().any(|argument| argument.contains(&*path)) {
            let program = arguments[0].rsplit('/').next().unwrap_or_default().to_owned();
            found.push((u32::try_from(process.pid)?, program));
        }
    }
    Ok(found)
}

#[test]
fn spark_and_its_java_end_with_us_and_with_each_other() -> Result<()> {
    let spark = Spark::start()?;
    let directory = spark.socket().parent().context("a directory")?.to_owned();
    let running = processes_of(&directory)?;
    let (python, _) = running.iter().find(|(_, program)| program == "python").context("Python")?;
    assert!(running.iter().any(|(_, program)| program == "java"), "{running:?}");
    signal(*python, "KILL")?;
    poll("Java has ended", || {
        Ok(processes_of(&directory)?.iter().all(|(_, program)| program != "java"))
    })?;
    drop(spark);
    assert_eq!(processes_of(&directory)?, []);
    assert!(!directory.exists());

    let spark = Spark::start()?;
    let directory = spark.socket().parent().context("a directory")?.to_owned();
    drop(spark);
    assert_eq!(processes_of(&directory)?, []);
    assert!(!directory.exists());
    Ok(())
}
