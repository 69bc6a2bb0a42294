//! Everything that is not a plain table read as a whole.

use anyhow::Result;
use serde_json::json;
use tests::postgres::{Database, USER};
use tests::run::Project;
use tests::verify::{self, Expected};

use crate::{plain, project};

#[test]
fn partitioned_tables_are_one_stream_with_the_rows_of_every_level() -> Result<()> {
    let project = project(
        "partitioned",
        "CREATE SCHEMA other;
         CREATE TABLE m (id int, region text, at date, v text) PARTITION BY LIST (region);
         CREATE TABLE m_eu PARTITION OF m FOR VALUES IN ('eu') PARTITION BY RANGE (at);
         CREATE TABLE m_eu_old PARTITION OF m_eu FOR VALUES FROM (MINVALUE) TO ('2020-01-01') PARTITION BY HASH (id);
         CREATE TABLE m_eu_old_0 PARTITION OF m_eu_old FOR VALUES WITH (MODULUS 2, REMAINDER 0);
         CREATE TABLE other.\"m eu old 1\" PARTITION OF m_eu_old FOR VALUES WITH (MODULUS 2, REMAINDER 1);
         CREATE TABLE m_eu_new PARTITION OF m_eu FOR VALUES FROM ('2020-01-01') TO (MAXVALUE);
         -- Its columns are in another order, with a dropped one between.
         CREATE TABLE m_us (v text, gone int, at date, id int, region text);
         ALTER TABLE m_us DROP COLUMN gone;
         ALTER TABLE m ATTACH PARTITION m_us FOR VALUES IN ('us');
         CREATE TABLE m_rest PARTITION OF m DEFAULT;
         CREATE TABLE m_empty PARTITION OF m FOR VALUES IN ('nowhere');
         CREATE TABLE nothing (id int) PARTITION BY RANGE (id);
         INSERT INTO m SELECT i, (ARRAY['eu', 'us', 'asia', NULL])[1 + i % 4], date '2015-01-01' + i, 'v' || i
           FROM generate_series(1, 4000) i;",
    )?;
    assert_eq!(project.streams()?, ["public.m", "public.nothing"]);
    project.select(&["public.m", "public.nothing"], plain())?;
    project.sync()?;
    verify::equals_source(&project, &["public.m", "public.nothing"])
}

#[test]
fn inheritance_children_are_tables_of_their_own() -> Result<()> {
    let project = project(
        "inherited",
        "CREATE TABLE parent (id int PRIMARY KEY, v text);
         CREATE TABLE child (extra int) INHERITS (parent);
         INSERT INTO parent SELECT i, 'parent' FROM generate_series(1, 10) i;
         INSERT INTO child SELECT i, 'child', i FROM generate_series(11, 30) i;",
    )?;
    project.select(&["public.parent", "public.child"], plain())?;
    project.sync()?;
    let parent = Expected::query(&project, "public", "parent", "SELECT * FROM ONLY parent")?;
    let child = Expected::relation(&project, "public", "child")?;
    verify::equals(&project, &[parent, child])
}

#[test]
fn views_materialized_views_and_foreign_tables_arrive() -> Result<()> {
    let database = Database::new("views")?;
    let server = &database.server;
    database.psql(&format!(
        "CREATE TABLE base (id int PRIMARY KEY, v text, amount numeric(8,2));
         INSERT INTO base SELECT i, 'v' || i, i / 7.0 FROM generate_series(1, 2000) i;
         CREATE VIEW doubled AS SELECT id, v || v AS v, amount * 2 AS amount FROM base WHERE id % 2 = 0;
         CREATE MATERIALIZED VIEW summed AS SELECT id % 10 AS digit, sum(amount) AS total FROM base GROUP BY 1;
         CREATE VIEW \"Joined View\" AS SELECT b.id, s.total FROM base b JOIN summed s ON s.digit = b.id % 10;
         CREATE EXTENSION postgres_fdw;
         CREATE SERVER loopback FOREIGN DATA WRAPPER postgres_fdw
           OPTIONS (host '{}', port '{}', dbname '{}');
         CREATE USER MAPPING FOR {USER} SERVER loopback OPTIONS (user '{USER}', password_required 'false');
         CREATE FOREIGN TABLE remote (id int, v text, amount numeric(8,2)) SERVER loopback OPTIONS (table_name 'base');",
        server.directory().display(),
        server.port(),
        database.name
    ))?;
    let project = Project::new(&database)?;
    project.discover()?;
    let streams =
        ["public.Joined View", "public.base", "public.doubled", "public.remote", "public.summed"];
    assert_eq!(project.streams()?, streams);
    project.select(&streams, plain())?;
    project.sync()?;
    verify::equals_source(&project, &streams)
}

const SALES: &str = "
    CREATE TABLE sales (id int PRIMARY KEY, amount numeric(8,2), status text, \"Odd Name\" text, at timestamptz);
    INSERT INTO sales SELECT i, i / 3.0, (ARRAY['paid', 'o''pen', NULL, 'x\"y'])[1 + i % 4],
      CASE WHEN i % 5 > 0 THEN 'n' || i END, timestamptz '2024-01-01 00:00:00+00' + i * interval '1 hour'
    FROM generate_series(1, 1000) i;";

#[test]
fn filters_are_applied_by_the_server() -> Result<()> {
    let conditions = |operator: &str, list: serde_json::Value| json!({"filter_config": {"logical_operator": operator, "conditions": list}});
    let cases = [
        (
            json!({"filter": "amount > 100 and status = \"paid\""}),
            "amount > 100 AND status = 'paid'",
        ),
        (json!({"filter": "id <= 10 or id >= 990"}), "id <= 10 OR id >= 990"),
        (
            conditions(
                "or",
                json!([
                    {"column": "status", "operator": "=", "value": "o'pen"},
                    {"column": "status", "operator": "=", "value": null},
                ]),
            ),
            "status = 'o''pen' OR status IS NULL",
        ),
        (
            conditions(
                "and",
                json!([
                    {"column": "at", "operator": "<", "value": "2024-01-20T00:00:00Z"},
                    {"column": "Odd Name", "operator": "!=", "value": null},
                    {"column": "id", "operator": "!=", "value": 7},
                ]),
            ),
            "at < '2024-01-20 00:00:00+00' AND \"Odd Name\" IS NOT NULL AND id <> 7",
        ),
    ];
    let project = project("filtered", SALES)?;
    for (settings, condition) in cases {
        project.select(&["public.sales"], settings.clone())?;
        project.sync()?;
        let query = format!("SELECT * FROM sales WHERE {condition}");
        let expected = Expected::query(&project, "public", "sales", &query)?;
        assert!(!expected.rows.rows.is_empty(), "a filter that keeps nothing proves nothing");
        verify::equals(&project, &[expected])
            .map_err(|error| error.context(settings.to_string()))?;
    }
    Ok(())
}

#[test]
fn selected_columns_and_the_key_arrive_and_no_others() -> Result<()> {
    let project = project("columns", SALES)?;
    let settings =
        json!({"selected_columns": {"columns": ["Odd Name", "status"], "sync_new_columns": false}});
    project.select(&["public.sales"], settings)?;
    project.sync()?;
    let mut expected = Expected::relation(&project, "public", "sales")?;
    let kept = ["id", "status", "odd_name"].map(str::to_owned);
    expected.rows = expected.rows.project(&kept)?;
    expected.columns.retain(|column| ["id", "status", "Odd Name"].contains(&column.name.as_str()));
    verify::equals(&project, &[expected])
}

#[test]
fn names_that_need_quoting_and_equal_names_in_two_schemas_stay_apart() -> Result<()> {
    let project = project(
        "names",
        "CREATE SCHEMA \"Weird \"\" schema\"; CREATE SCHEMA two;
         CREATE TABLE \"Weird \"\" schema\".t (\"ID\" int PRIMARY KEY, \"select\" text);
         CREATE TABLE two.t (id int PRIMARY KEY, v text);
         CREATE TABLE public.t (id int PRIMARY KEY, v text);
         CREATE TABLE public.\"a.b\" (id int, \"x.y\" int);
         INSERT INTO \"Weird \"\" schema\".t VALUES (1, 'weird');
         INSERT INTO two.t VALUES (2, 'two'); INSERT INTO t VALUES (3, 'public');
         INSERT INTO \"a.b\" VALUES (4, 5);",
    )?;
    let streams = ["Weird \" schema.t", "public.a.b", "public.t", "two.t"];
    assert_eq!(project.streams()?, streams);
    project.select(&streams, plain())?;
    project.sync()?;
    verify::equals_source(&project, &streams)
}
