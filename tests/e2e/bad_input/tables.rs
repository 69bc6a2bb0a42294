//! Tables that are not what discover saw, or that the role may not read whole.

use anyhow::Result;
use serde_json::{Value, json};
use tests::increments;
use tests::run::Project;
use tests::verify;

use super::{ORDERS, left_apart, refused, refused_by, synced};

/// Makes a role with a password that may use the schema, and has the project
/// log in as it.
fn log_in_as_reader(project: &Project) -> Result<String> {
    let role = format!("{} reader", project.database().name);
    project.database().psql(&format!(
        "CREATE ROLE \"{role}\" LOGIN PASSWORD 'reader''s own'; GRANT USAGE ON SCHEMA public TO \"{role}\""
    ))?;
    project.edit("source.json", |source| {
        source["username"] = json!(role);
        source["password"] = json!("reader's own");
    })?;
    Ok(role)
}

#[test]
fn every_table_that_the_role_may_not_read_is_named_with_the_grant() -> Result<()> {
    let project = synced(
        "grants",
        "CREATE SCHEMA shut;
         CREATE TABLE open (id int PRIMARY KEY); CREATE TABLE closed (id int PRIMARY KEY);
         CREATE TABLE partly (id int PRIMARY KEY, salary int); CREATE TABLE shut.away (id int);
         INSERT INTO open VALUES (1); INSERT INTO closed VALUES (1); INSERT INTO partly VALUES (1, 2);
         INSERT INTO shut.away VALUES (1);",
    )?;
    let role = log_in_as_reader(&project)?;
    project.database().psql(&format!(
        "GRANT SELECT ON open, shut.away TO \"{role}\"; GRANT SELECT (id) ON partly TO \"{role}\";"
    ))?;
    let named = [&role, "closed", "partly", "salary", "away", "GRANT SELECT", "USAGE"];
    project.database().psql("INSERT INTO open VALUES (2)")?;
    let error = left_apart(&project, &named)?;
    assert!(!error.contains("open"), "the readable table is not to blame: {error}");
    verify::same_as_source(&project, &["public.open"])?;
    // Where it may read none of them, nothing is done.
    project.database().psql(&format!("REVOKE SELECT ON open FROM \"{role}\""))?;
    refused(&project, &named)?;
    Ok(())
}

#[test]
fn row_security_that_hides_rows_is_an_error_and_not_a_smaller_table() -> Result<()> {
    let project = synced(
        "hidden",
        "CREATE TABLE guarded (id int PRIMARY KEY, owner text); INSERT INTO guarded VALUES (1, 'a'), (2, 'b');
         CREATE TABLE free (id int PRIMARY KEY); INSERT INTO free VALUES (1);
         ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
         CREATE POLICY own ON guarded USING (owner = 'a');",
    )?;
    let role = log_in_as_reader(&project)?;
    project.database().psql(&format!("GRANT SELECT ON guarded, free TO \"{role}\""))?;
    left_apart(&project, &["public.guarded", "row-level security", &role, "BYPASSRLS"])?;
    verify::same_as_source(&project, &["public.free"])?;
    project.database().psql(&format!("ALTER ROLE \"{role}\" BYPASSRLS"))?;
    project.sync()?;
    Ok(())
}

#[test]
fn everything_that_changed_since_discover_is_named_at_once() -> Result<()> {
    let project = synced(
        "changed",
        "CREATE TABLE dropped (id int); CREATE TABLE renamed (id int);
         CREATE TABLE lost_a_column (id int, gone text); CREATE TABLE retyped (id int, n int, m int);
         CREATE TABLE same (id int);
         INSERT INTO dropped VALUES (1); INSERT INTO renamed VALUES (1); INSERT INTO same VALUES (1);
         INSERT INTO lost_a_column VALUES (1, 'x'); INSERT INTO retyped VALUES (1, 2, 3);",
    )?;
    project.database().psql(
        "DROP TABLE dropped; ALTER TABLE renamed RENAME TO other;
         ALTER TABLE lost_a_column DROP COLUMN gone;
         ALTER TABLE retyped ALTER n TYPE text, ALTER m TYPE bigint;
         INSERT INTO same VALUES (2);",
    )?;
    let named = [
        "public.dropped",
        "public.renamed",
        "public.lost_a_column",
        "gone",
        "public.retyped",
        "column n",
        "column m",
        "integer_small",
        "string",
        "discover",
    ];
    let error = left_apart(&project, &named)?;
    assert!(!error.contains("public.same"), "the unchanged table is not to blame: {error}");
    verify::same_as_source(&project, &["public.same"])?;

    // What the error says to do is enough.
    let again = ["discover", "--config", "source.json", "--streams", "streams.json"];
    project.run(&again)?.succeeded()?;
    project.sync()?;
    verify::equals_source(&project, &["public.lost_a_column", "public.retyped", "public.same"])
}

#[test]
fn an_incremental_table_that_is_gone_does_not_hold_up_the_others() -> Result<()> {
    let project = synced(
        "gone",
        "CREATE TABLE gone (id int PRIMARY KEY); CREATE TABLE grows (id int PRIMARY KEY);
         CREATE TABLE same (id int PRIMARY KEY); INSERT INTO gone VALUES (1);
         INSERT INTO grows VALUES (1); INSERT INTO same VALUES (1)",
    )?;
    project.edit("streams.json", |catalog| {
        for entry in catalog["streams"].as_array_mut().into_iter().flatten() {
            if entry["stream"]["name"] != "same" {
                entry["stream"]["sync_mode"] = "incremental".into();
                entry["stream"]["cursor_field"] = "id".into();
            }
        }
    })?;
    project.sync()?;
    project.database().psql("ALTER TABLE gone RENAME TO away")?;
    for id in 2..4 {
        project.database().psql(&format!(
            "INSERT INTO away VALUES ({id}); INSERT INTO grows VALUES ({id});
             INSERT INTO same VALUES ({id})"
        ))?;
        left_apart(&project, &["public.gone no longer exists", "run discover"])?;
        increments::equals_source(&project, &["public.grows"])?;
        verify::same_as_source(&project, &["public.same"])?;
    }
    project.database().psql("ALTER TABLE away RENAME TO gone")?;
    project.sync()?;
    increments::equals_source(&project, &["public.gone", "public.grows"])?;
    verify::same_as_source(&project, &["public.same"])
}

#[test]
fn what_only_the_server_can_refuse_names_the_stream() -> Result<()> {
    let project = synced("server", ORDERS)?;
    let with = |key: &'static str, value: &'static str| {
        move |streams: &mut Value| streams["selected_streams"]["public"][0][key] = json!(value)
    };
    let filter = with("filter", "price > \"much\"");
    refused_by(&project, "streams.json", filter, &["public.orders", "filter", "much"])?;
    // No order, so no ranges.
    project.database().psql("CREATE TABLE places (id int, spot point)")?;
    project.discover()?;
    project.select(&["public.places"], json!({"split_column": "spot"}))?;
    refused(&project, &["public.places", "spot"])?;
    Ok(())
}
