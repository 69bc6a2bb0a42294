//! Where the rows of keys lie that were staged, as staging tells it.

use std::collections::BTreeSet;
use std::path::Path;

use tests::reader;

use super::*;

/// A report of keys: of each, by the text of its column `key`, where its row lies.
fn reported(staged: &StagedChunk, key: &str) -> Result<BTreeMap<String, (String, i64)>> {
    let path = staged.keys.strip_prefix("file://").context("a file of this machine")?;
    let copy = tempfile::tempdir()?;
    std::fs::copy(path, copy.path().join("keys.parquet"))?;
    let rows = reader::read(reader::Engine::DuckDb, copy.path())?.rows;
    ensure!(rows.columns == ["file_path", "pos", key], "{:?}", rows.columns);
    let mut places = BTreeMap::new();
    for row in &rows.rows {
        let text = |at: usize| row[at].as_str().context("a value");
        places.insert(text(2)?.to_owned(), (text(0)?.to_owned(), text(1)?.parse()?));
    }
    ensure!(places.len() == rows.rows.len(), "a key is there twice");
    Ok(places)
}

#[test]
fn where_the_row_of_each_key_lies_is_told_and_is_so() -> Result<()> {
    for (regex, normalization, kind) in [
        ("", true, Kind::Data),
        ("/{kind, identity}", true, Kind::Changes),
        ("/{kind, identity}", false, Kind::Changes),
    ] {
        let told = format!("{regex:?} {normalization} {kind:?}");
        let mut table = Changing::new(ON_FILES, regex, 2)?;
        (table.report_keys, table.table.normalization) = (true, normalization);
        table.commit(Mode::Replace, "c0", inserts(100..110))?;
        let rows = inserts(0..40).upserts;
        let staged = table.stage("c1", 0, kind, &data(&rows))?;
        let key = if normalization { "id" } else { "_olake_id" };
        let places = reported(&staged, key).context(told.clone())?;
        assert_eq!(places.len(), 40, "{told}");
        let keys = staged.keys.clone();
        let request = table.request(Mode::Append, "c1", vec![staged]);
        table.writer.commit(request).map_err(|fault| anyhow!("{fault}"))?;
        table.commit_id = "c1".to_owned();
        table.rows.extend(rows);
        let left = keys.strip_prefix("file://").is_some_and(|path| Path::new(path).exists());
        assert!(!left, "it goes with the commit");

        let gone: Vec<i64> = (0..40).step_by(3).collect();
        let mut wanted = gone.iter().map(|id| &places[&id.to_string()]).collect::<Vec<_>>();
        wanted.sort();
        let (paths, positions): (Vec<_>, Vec<_>) = wanted.into_iter().cloned().unzip();
        let batch = places_of(paths, positions)?;
        let staged = vec![table.stage("c2", 0, Kind::PositionDeletes, &batch)?];
        let request = table.request(Mode::RowDelta, "c2", staged);
        table.writer.commit(request).map_err(|fault| anyhow!("{fault}"))?;
        table.rows.retain(|id, _| !gone.contains(id));
        if normalization {
            table.equals(&Engine::ALL).context(told)?;
            continue;
        }
        let left: BTreeSet<String> = table.rows.keys().map(i64::to_string).collect();
        for engine in Engine::ALL {
            let rows = table.lake_table().read(engine)?.rows;
            let found = rows.column(key)?;
            let found = found.into_iter().filter_map(|cell| cell.as_str().map(str::to_owned));
            assert_eq!(found.collect::<BTreeSet<_>>(), left, "{engine:?}");
        }
    }
    Ok(())
}

#[test]
fn keys_are_told_of_rows_with_a_key_only() -> Result<()> {
    let mut table = Changing::new(ON_FILES, "", 2)?;
    (table.report_keys, table.table.key_columns) = (true, Vec::new());
    let refused = table.stage("c1", 0, Kind::Data, &data(&inserts(0..2).upserts));
    let refused = refused.expect_err("rows without a key").to_string();
    assert!(refused.contains("without a key"), "{refused}");
    Ok(())
}
