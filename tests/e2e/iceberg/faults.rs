//! A catalog that is away before, in or after a commit, that is silent, or whose
//! answers are lost, and others who commit in between: over every catalog that has
//! an address.

use anyhow::{Context, Result, bail};
use tests::compare::{Cell, Rows};
use tests::iceberg::engine::Engine;
use tests::iceberg::pair::{Catalog, Pair};
use tests::iceberg::seaweed;
use tests::iceberg::warehouse::namespace_of;
use tests::postgres::PASSWORD;
use tests::proxy::{Fault, Proxy};
use tests::run::{Outcome, Project};

use super::{Lake, hive};
use crate::plain;

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2)";
const ADD: &str = "INSERT INTO t SELECT max(id) + 1 FROM t";

/// How a catalog is asked, as far as a proxy sees it: text in its requests.
struct Asked {
    /// Those that make a table.
    create: Vec<String>,
    /// The one that makes a commit to a table that is there.
    swap: String,
    /// One before it, while nothing keeps others from committing.
    before: String,
    /// One of a commit whose answer does not matter.
    beside: Option<String>,
    /// The setting of destination.json that has the address.
    setting: &'static str,
}

impl Asked {
    fn of(lake: &Lake) -> Result<Asked> {
        let namespace = namespace_of(&lake.project, "public");
        let rest = |prefix: &str| {
            let tables = format!("POST /v1/{prefix}namespaces/{namespace}/tables");
            let commit = format!("{tables}/t HTTP");
            Asked {
                create: vec![format!("{tables} HTTP"), commit.clone()],
                swap: commit.clone(),
                before: commit,
                beside: Some(format!("GET /v1/{prefix}namespaces/{namespace}/tables/t HTTP")),
                setting: "rest_catalog_url",
            }
        };
        let asked = |create: &str, swap: &str, before: &str, beside: Option<&str>, setting| Asked {
            create: vec![create.to_owned()],
            swap: swap.to_owned(),
            before: before.to_owned(),
            beside: beside.map(str::to_owned),
            setting,
        };
        Ok(match lake.warehouse.pair().catalog {
            Catalog::Sqlite => bail!("a file has no address"),
            Catalog::Postgres => {
                let update = "UPDATE iceberg_tables";
                asked("INSERT INTO iceberg_tables", update, update, None, "jdbc_url")
            }
            Catalog::Glue => {
                let [update, get] = ["AWSGlue.UpdateTable", "AWSGlue.GetTable"];
                asked("AWSGlue.CreateTable", update, update, Some(get), "glue_endpoint")
            }
            // The lock keeps others out; its name with its length.
            Catalog::Hive => {
                asked("create_table", hive::ALTER, "\0\0\0\u{4}lock", Some("unlock"), "hive_uri")
            }
            Catalog::Rest => rest("warehouse/"),
            Catalog::JavaRest => rest(""),
        })
    }
}

/// A lake with a selected table, reached through a proxy.
struct Faulty {
    lake: Lake,
    proxy: Proxy,
    asked: Asked,
}

impl Faulty {
    fn new(pair: Pair, label: &str) -> Result<Faulty> {
        let lake = Lake::new(pair, label, TABLE)?;
        lake.project.select(&["public.t"], plain())?;
        let proxy = Proxy::start(&lake.warehouse.catalog_address().context("an address")?)?;
        lake.project.write("destination.json", &lake.warehouse.destination_at(proxy.address()))?;
        let asked = Asked::of(&lake)?;
        Ok(Faulty { lake, proxy, asked })
    }

    /// With its table synced.
    fn synced(pair: Pair, label: &str) -> Result<Faulty> {
        let faulty = Faulty::new(pair, label)?;
        faulty.lake.project.sync()?;
        Ok(faulty)
    }

    /// The refusal of a catalog that is away.
    fn refused(&self, outcome: Outcome) -> Result<()> {
        self.refused_at(outcome, &[self.proxy.address()])
    }

    fn refused_at(&self, outcome: Outcome, named: &[&str]) -> Result<()> {
        let secrets = [PASSWORD, seaweed::SECRET, tests::iceberg::glue::SECRET];
        let named = [named, &[self.asked.setting]].concat();
        super::refusal(&self.lake.project, outcome, &secrets, &named).map(drop)
    }

    fn snapshots(&self) -> Result<usize> {
        Ok(self.lake.table("t").describe()?.snapshots.len())
    }

    /// The table equals its relation, and nothing is left of what made it so.
    fn is_right(&self) -> Result<()> {
        if self.lake.warehouse.pair().catalog == Catalog::Hive {
            assert_eq!(hive::locks(&self.lake)?, Vec::<serde_json::Value>::new());
        }
        self.lake.equals_source(&["public.t"])
    }
}

pub fn a_swap_without_an_answer_is_made_once(pair: Pair) -> Result<()> {
    let faulty = Faulty::new(pair, "unanswered")?;
    let Asked { create, swap, beside, .. } = &faulty.asked;
    let mut rounds: Vec<Vec<(&String, Fault)>> = vec![
        create.iter().map(|text| (text, Fault::LoseAnswer)).collect(),
        vec![(swap, Fault::LoseAnswer)],
        vec![(swap, Fault::LoseRequest)],
    ];
    rounds.extend(beside.iter().map(|text| vec![(text, Fault::LoseAnswer)]));
    for (snapshots, faults) in (1..).zip(rounds) {
        faulty.lake.project.database().psql(ADD)?;
        let lost: Vec<_> =
            faults.iter().map(|(text, fault)| faulty.proxy.once(text, *fault)).collect();
        faulty.lake.project.sync()?;
        assert!(lost.iter().all(|lost| lost.is_met()), "{faults:?}");
        assert_eq!(faulty.snapshots()?, snapshots, "{faults:?}");
        faulty.is_right().with_context(|| format!("{faults:?}"))?;
    }
    Ok(())
}

pub fn a_catalog_that_vanishes_before_in_or_after_a_commit_has_it_once(pair: Pair) -> Result<()> {
    let faulty = Faulty::synced(pair, "vanished")?;
    let (project, proxy) = (&faulty.lake.project, &faulty.proxy);
    let table = faulty.lake.table("t");
    let before = table.describe()?;
    project.database().psql(ADD)?;
    proxy.down(true);
    faulty.refused(project.run(&Project::SYNC)?).context("before")?;
    proxy.down(false);

    let held = proxy.once(&faulty.asked.swap, Fault::Hold);
    let sync = project.start(&Project::SYNC)?;
    held.met()?;
    proxy.down(true);
    faulty.refused(sync.wait()?).context("in it")?;
    held.release();
    assert_eq!(table.describe()?.metadata_location, before.metadata_location);
    proxy.down(false);
    project.sync()?;
    assert_eq!(faulty.snapshots()?, 2);
    faulty.is_right()?;

    project.database().psql(ADD)?;
    let vanishing = proxy.once(&faulty.asked.swap, Fault::Vanish);
    faulty.refused(project.run(&Project::SYNC)?).context("after it")?;
    assert!(vanishing.is_met());
    assert_eq!(faulty.snapshots()?, 3, "it is made");
    proxy.down(false);
    project.sync()?;
    faulty.is_right()
}

pub fn a_catalog_that_never_answers_is_an_error_in_time(pair: Pair) -> Result<()> {
    let faulty = Faulty::synced(pair, "silent")?;
    let table = faulty.lake.table("t");
    let before = table.describe()?;
    // Accepts (the backlog does) and stays silent.
    let silent = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = silent.local_addr()?.to_string();
    let project = &faulty.lake.project;
    project.write("destination.json", &faulty.lake.warehouse.destination_at(&address))?;
    for arguments in [&Project::SYNC[..], &crate::bad_input::CHECK] {
        faulty.refused_at(project.run(arguments)?, &[&address, "no answer"])?;
    }
    assert_eq!(table.describe()?.metadata_location, before.metadata_location);
    Ok(())
}

/// A row that the source does not have.
fn stranger() -> Rows {
    let cells = [
        ("id", "9"),
        ("_olake_id", "9"),
        ("_olake_timestamp", "2024-02-29 12:00:00+00"),
        ("_op_type", "c"),
    ];
    let (columns, row) =
        cells.map(|(name, cell)| (name.to_owned(), Cell::text(cell))).into_iter().unzip();
    Rows { columns, rows: vec![row] }
}

pub fn what_others_commit_before_our_swap_is_built_upon(pair: Pair) -> Result<()> {
    let faulty = Faulty::synced(pair, "between")?;
    let project = &faulty.lake.project;
    let table = faulty.lake.table("t");
    // An append, and new files in the place of those that our commit was to remove.
    for is_rewrite in [false, true] {
        project.database().psql(ADD)?;
        let held = faulty.proxy.once(&faulty.asked.before, Fault::Hold);
        let sync = project.start(&Project::SYNC)?;
        held.met()?;
        if is_rewrite {
            table.rewrite()?;
        } else {
            table.append(&stranger())?;
            assert_eq!(table.count(Engine::PyIceberg, "id = 9")?, 1);
        }
        let theirs = table.describe()?;
        held.release();
        sync.wait()?.succeeded()?;
        let ours = table.describe()?;
        assert_eq!(ours.current()?.parent, theirs.current_snapshot_id);
        faulty.is_right()?;
    }
    Ok(())
}
