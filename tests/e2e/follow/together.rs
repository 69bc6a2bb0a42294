//! The tables of an interval, in one commit where the catalog has commits of
//! several tables.

use anyhow::{Context, Result, ensure};
use tests::follow;
use tests::iceberg::pair::{Catalog, Pair, Store};
use tests::iceberg::warehouse::{Warehouse, namespace_of};
use tests::proxy::{Fault, Proxy};
use tests::run::Project;

use super::Followed;

const TABLES: [&str; 3] = ["public.a", "public.b", "public.c"];
const SCHEMA: &str = "
    CREATE TABLE a (id int PRIMARY KEY, v text);
    CREATE TABLE b (id int PRIMARY KEY, v text);
    CREATE TABLE c (v text);
    INSERT INTO a SELECT i, 'a' || i FROM generate_series(1, 50) i;
    INSERT INTO b SELECT i, 'b' || i FROM generate_series(1, 50) i;
    INSERT INTO c SELECT 'c' || i FROM generate_series(1, 50) i;";
const CHANGES: &str = "
    BEGIN;
    UPDATE a SET v = v || '+' WHERE id % 5 = 0;
    DELETE FROM b WHERE id = (SELECT min(id) FROM b);
    INSERT INTO b SELECT max(id) + 1, 'new' FROM b;
    INSERT INTO c SELECT 'c' || count(*) FROM c;
    COMMIT;";
const ASKED: &str = "transactions/commit";

/// Tables that are loaded, the catalog at `path` behind a proxy.
fn loaded(catalog: Catalog, store: Store, path: &str) -> Result<(Followed, Proxy)> {
    let project = follow::project("together", SCHEMA)?;
    let lake = Warehouse::start(Pair::new(catalog, store))?;
    let proxy = Proxy::start(&lake.catalog_address().context("an address")?)?;
    let mut destination = lake.destination_at(proxy.address());
    let url = format!("http://{}{path}", proxy.address());
    destination["writer"]["rest_catalog_url"] = url.into();
    project.write("destination.json", &destination)?;
    let followed = Followed { project, lake: Some(lake), soft: false };
    followed.sync()?;
    Ok((followed, proxy))
}

/// What the tables' last snapshots say that they are brought to, and how many
/// snapshots there are.
fn positions(followed: &Followed) -> Result<Vec<(String, usize)>> {
    let lake = followed.lake.as_ref().context("a lake")?;
    let table = |stream: &&str| {
        let name = stream.trim_start_matches("public.");
        let described = lake.table_of(&followed.project, "public", name).describe()?;
        let position = described.current()?.summary.get("tidewater.position");
        let (lsn, _) = position.and_then(|text| text.split_once('@')).context("a position")?;
        Ok((lsn.to_owned(), described.snapshots.len()))
    };
    TABLES.iter().map(table).collect()
}

/// Each table has one snapshot more than before, and all have one position.
fn moved_together(followed: &Followed, before: &[(String, usize)]) -> Result<()> {
    let now = positions(followed)?;
    for ((lsn, count), (earlier, fewer)) in now.iter().zip(before) {
        ensure!(lsn == &now[0].0 && lsn != earlier && *count == fewer + 1, "{before:?} {now:?}");
    }
    Ok(())
}

#[test]
fn the_tables_of_an_interval_are_brought_to_one_position_by_one_commit() -> Result<()> {
    let (followed, proxy) = loaded(Catalog::JavaRest, Store::Local, "")?;
    let lake = followed.lake.as_ref().context("a lake")?;
    let namespace = namespace_of(&followed.project, "public");
    let commits = || lake.commits(&namespace);
    let loads = commits()?.len();

    // Somebody else changes one of them in the midst of it: all are derived anew.
    let before = positions(&followed)?;
    followed.psql(CHANGES)?;
    let held = proxy.once(ASKED, Fault::Hold);
    let sync = followed.project.start(&Project::SYNC)?;
    held.met()?;
    lake.table_of(&followed.project, "public", "c").rewrite()?;
    held.release();
    sync.wait()?.succeeded()?;
    ensure!(commits()?[loads..] == [1, 3], "{:?}", commits()?);
    let now = positions(&followed)?;
    ensure!(now.iter().all(|(lsn, _)| lsn == &now[0].0), "{before:?} {now:?}");
    ensure!((now[0].1, now[1].1) == (before[0].1 + 1, before[1].1 + 1), "{before:?} {now:?}");
    followed.equals(&TABLES)?;

    // Its answer is lost, or it is itself.
    for (fault, made) in [(Fault::LoseAnswer, &[1, 3, 3][..]), (Fault::LoseRequest, &[1, 3, 3, 3])]
    {
        let before = positions(&followed)?;
        followed.psql(CHANGES)?;
        let lost = proxy.once(ASKED, fault);
        followed.sync_equals(&TABLES)?;
        lost.met()?;
        ensure!(&commits()?[loads..] == made, "{:?}", commits()?);
        moved_together(&followed, &before)?;
    }

    // One alone needs nothing of the kind.
    followed.psql("DELETE FROM a WHERE id = 7")?;
    followed.sync_equals(&TABLES)?;
    ensure!(commits()?[loads..] == [1, 3, 3, 3, 1], "{:?}", commits()?);
    Ok(())
}

#[test]
fn a_catalog_that_does_not_say_what_it_can_is_asked() -> Result<()> {
    let (followed, proxy) = loaded(Catalog::Rest, Store::S3, "")?;
    let before = positions(&followed)?;
    followed.psql(CHANGES)?;
    let lost = proxy.once(ASKED, Fault::LoseAnswer);
    followed.sync_equals(&TABLES)?;
    lost.met()?;
    moved_together(&followed, &before)
}

#[test]
fn without_such_commits_each_table_has_its_own() -> Result<()> {
    let (followed, _proxy) = loaded(Catalog::JavaRest, Store::Local, "/single")?;
    let lake = followed.lake.as_ref().context("a lake")?;
    let namespace = namespace_of(&followed.project, "public");
    let loads = lake.commits(&namespace)?.len();
    let before = positions(&followed)?;
    followed.psql(CHANGES)?;
    followed.sync_equals(&TABLES)?;
    ensure!(lake.commits(&namespace)?[loads..] == [1, 1, 1]);
    moved_together(&followed, &before)
}
