//! Chunks by the ranges of a column instead of by pages.

use anyhow::{Context, Result};
use serde_json::json;
use tests::reader::{Engine, read};
use tests::{verify, watch};

use crate::{plain, project};

/// Some 6,000 pages of one row each, so that several chunks are worthwhile.
const SPREAD: &str = "
    CREATE TABLE spread (
      a int, b bigint, c uuid, d text COLLATE \"C\", e timestamptz, f date, g numeric(12,3), h smallint, i timestamp,
      padding char(700), PRIMARY KEY (d, b)
    ) WITH (fillfactor = 10);
    INSERT INTO spread SELECT
      CASE WHEN n % 50 > 0 THEN n * 7 % 1000 END, n, CASE WHEN n % 9 > 0 THEN md5(n::text)::uuid END,
      (ARRAY['', 'same', 'ünï', 'quote''d', '\\'])[1 + n % 5] || CASE WHEN n % 3 > 0 THEN n::text ELSE '' END,
      CASE WHEN n % 7 > 0 THEN timestamptz '2000-01-01 00:00:00+00' + n * n * interval '1 second' END,
      date '2020-01-01' + n % 40, n / 13.0, n % 3,
      CASE WHEN n = 17 THEN 'infinity' ELSE timestamp '2000-01-01' + n * interval '1 hour' END, ''
    FROM generate_series(1, 6000) n;
    ANALYZE spread;";

#[test]
fn a_split_column_of_any_type_reads_each_row_once() -> Result<()> {
    let project = project("split", SPREAD)?;
    // Of a composite key the first column is `d`; NULLs are in most.
    for column in ["a", "b", "c", "d", "e", "f", "g", "h", "i"] {
        let key = if column == "a" { "chunk_column" } else { "split_column" };
        project.select(&["public.spread"], json!({key: column}))?;
        project.sync()?;
        verify::equals_source(&project, &["public.spread"])
            .context(format!("split by {column}"))?;
        let files = watch::parquet_files(&project.table("public", "spread")).len();
        assert!(files > 1, "split by {column} makes one chunk only");
    }
    Ok(())
}

#[test]
fn a_table_without_a_split_column_is_read_by_page_ranges() -> Result<()> {
    let project = project("pages", SPREAD)?;
    project.select(&["public.spread"], plain())?;
    project.sync()?;
    verify::equals_source(&project, &["public.spread"])?;
    let table = read(Engine::PyArrow, &project.table("public", "spread"))?;
    assert!(table.files.len() > 1, "one chunk only: {:?}", table.files);
    Ok(())
}

#[test]
fn an_unknown_or_unsuitable_split_column_is_an_error() -> Result<()> {
    let project = project("unsuitable", "CREATE TABLE t (id int PRIMARY KEY, spot point);")?;
    for column in ["missing", "spot"] {
        project.select(&["public.t"], json!({"split_column": column}))?;
        let message = project.run(&tests::run::Project::SYNC)?.failed()?;
        assert!(message.contains(column) && message.contains("public.t"), "{message}");
    }
    Ok(())
}
