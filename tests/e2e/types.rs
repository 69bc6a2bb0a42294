//! The complete type table, on every PostgreSQL found.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde_json::json;
use tests::builds::enough;
use tests::postgres::{Build, Database, Server};
use tests::run::Project;
use tests::{truth, verify};

use crate::{fixture, plain, project};

pub const STREAMS: [&str; 12] = [
    "public.types",
    "public.unrepresentable",
    "public.big_values",
    "public.undeclared_dimensions",
    "public.generated",
    "public.order",
    "public.zero_rows",
    "public.zero_columns",
    "public.zero_columns_zero_rows",
    "public.thousand_columns",
    "Quoted \"Schema\".Mixed-Case 'Table' %",
    // Known to hold only what is in `public.types`, but through a view.
    "public.types_view",
];

#[test]
fn every_type_arrives_as_postgresql_prints_it_on_every_postgresql() -> Result<()> {
    for build in Build::several()? {
        type_table(&build).with_context(|| format!("on PostgreSQL {}", build.version))?;
    }
    Ok(())
}

#[test]
fn one_postgresql_is_not_enough_to_say_that_of_every_postgresql() {
    let refusal = |majors: &[u32]| format!("{:#}", enough(majors).unwrap_err());
    let message = refusal(&[15]);
    for part in ["[15]", "PostgreSQL 14 and PostgreSQL 18 are missing", "./build.sh test"] {
        assert!(message.contains(part), "{part:?} is not in {message}");
    }
    let message = refusal(&[18]);
    for part in ["PostgreSQL 14 is missing", "TIDEWATER_TEST_PG"] {
        assert!(message.contains(part), "{part:?} is not in {message}");
    }
    assert!(enough(&[15, 18]).is_ok());
}

fn type_table(build: &Build) -> Result<()> {
    let database = Database::on(&Server::shared_build(build)?, "types")?;
    database.psql_file(&fixture("types.sql"))?;
    database.psql("CREATE VIEW types_view AS SELECT * FROM types")?;
    let project = Project::new(&database)?;
    project.discover()?;
    words(&project)?;
    let mut listed = project.streams()?;
    listed.sort();
    let mut expected = STREAMS.to_vec();
    expected.sort();
    assert_eq!(listed, expected);
    project.select(&STREAMS, plain())?;
    project.sync()?;
    verify::equals_source(&project, &STREAMS)
}

/// The words in streams.json are those the fixture states.
fn words(project: &Project) -> Result<()> {
    let columns = truth::columns(project.database(), "public.types")?;
    let properties = &project.stream("public", "types")?["type_schema"]["properties"];
    let mut faults = Vec::new();
    for column in &columns {
        let wanted = column.comment.clone().context("a column of the fixture states its word")?;
        assert_eq!(
            wanted,
            column.word(),
            "the harness disagrees with the fixture on {}",
            column.name
        );
        let found = &properties[&column.name]["type"];
        if *found != json!([wanted, "null"]) {
            faults.push(format!("{}: {found} instead of {wanted}", column.name));
        }
    }
    if !faults.is_empty() {
        bail!("words of streams.json differ:\n  {}", faults.join("\n  "));
    }
    Ok(())
}

const UNREPRESENTABLE: &str = "
    CREATE TABLE readings (id int PRIMARY KEY, day date, at timestamptz, amount numeric(10,2), items int[]);
    INSERT INTO readings VALUES
      (1, 'infinity', '-infinity', 'NaN', '{{1}}'),
      (2, '-infinity', '2020-01-01', 1, '[0:0]={1}'),
      (3, '2020-01-01', '2020-01-01', NULL, '{1}');";

#[test]
fn unrepresentable_values_are_null_and_counted() -> Result<()> {
    let project = project("counted", UNREPRESENTABLE)?;
    project.select(&["public.readings"], plain())?;
    let outcome = project.sync()?;
    verify::equals_source(&project, &["public.readings"])?;

    let summary: serde_json::Value =
        serde_json::from_str(outcome.stdout.lines().last().unwrap_or_default())?;
    let counts: BTreeMap<String, u64> =
        serde_json::from_value(summary["streams"][0]["unrepresentable"].clone())?;
    let expected = [("day", 2), ("at", 1), ("amount", 1), ("items", 2)];
    assert_eq!(counts, expected.map(|(column, count)| (column.to_owned(), count)).into());
    for (column, _) in expected {
        let told = outcome.stderr.contains(&format!("public.readings.{column}"));
        assert!(told, "the user is told of {column}:\n{}", outcome.stderr);
    }
    Ok(())
}

#[test]
fn an_unrepresentable_value_fails_the_sync_where_that_is_asked_for() -> Result<()> {
    let project = project("refused", UNREPRESENTABLE)?;
    project.select(&["public.readings"], json!({"on_unrepresentable": "fail"}))?;
    let message = project.run(&Project::SYNC)?.failed()?;
    assert!(message.contains("readings"), "names the table: {message}");
    assert!(message.contains("infinity") || message.contains("NaN"), "shows the value: {message}");
    assert!(message.contains("id"), "names the row's key: {message}");
    assert!(!project.table("public", "readings").exists(), "nothing half-visible");
    Ok(())
}
