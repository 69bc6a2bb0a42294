//! What only a JDBC catalog in PostgreSQL has: a server that refuses, verifies and
//! is verified, and locks rows.

use std::net::TcpListener;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tests::certificates::Certificates;
use tests::iceberg::pair::{Catalog, Pair, Store};
use tests::postgres::{Database, Options, PASSWORD, Server, USER};
use tests::run::{Outcome, Project, poll};

use super::Lake;
use crate::bad_input::shows_no_secret;
use crate::plain;

const PAIR: Pair = Pair::new(Catalog::Postgres, Store::Local);
const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2)";
const ADD: &str = "INSERT INTO t SELECT max(id) + 1 FROM t";
const WRONG: &str = "not-the-password";

fn refusal(project: &Project, outcome: Outcome, named: &[&str]) -> Result<()> {
    super::refusal(project, outcome, &[PASSWORD, WRONG], named).map(drop)
}

/// The lake with one table in it, synced.
fn synced(label: &str) -> Result<Lake> {
    let lake = Lake::new(PAIR, label, TABLE)?;
    lake.project.select(&["public.t"], plain())?;
    lake.project.sync()?;
    Ok(lake)
}

#[test]
fn a_catalog_that_refuses_is_named_with_the_way_out_and_the_table_unchanged() -> Result<()> {
    let lake = synced("refusing")?;
    let project = &lake.project;
    let before = lake.table("t").describe()?;
    let right = project.read("destination.json")?;
    let url = right["writer"]["jdbc_url"].as_str().context("a URL")?;
    let (server, _) = url.rsplit_once('/').context("a database")?;
    // Bound and closed again: nobody listens there now.
    let closed = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let [unknown, away] =
        [format!("{server}/no_such_database"), format!("jdbc:postgresql://{closed}/lake")];
    // The tests' authority is none of the system's.
    let [verified, malformed] =
        [format!("{url}?sslmode=verify-full"), format!("{url}?password={WRONG}%")];
    for (key, value, named) in [
        ("jdbc_password", WRONG, [server, "authentication failed", "jdbc_password"]),
        ("jdbc_password", "", [server, "password missing", "jdbc_password"]),
        ("jdbc_username", "nobody_here", [server, "nobody_here", "jdbc_username"]),
        ("jdbc_username", "", ["no user", "jdbc_username", "destination.json"]),
        ("jdbc_url", unknown.as_str(), ["no_such_database", "does not exist", "jdbc_url"]),
        ("jdbc_url", away.as_str(), [closed.as_str(), "refused", "jdbc_url"]),
        ("jdbc_url", verified.as_str(), [server, "certificate", "sslrootcert"]),
        ("jdbc_url", malformed.as_str(), ["malformed", "jdbc_url", "destination.json"]),
    ] {
        let mut wrong = right.clone();
        wrong["writer"][key] = json!(value);
        project.write("destination.json", &wrong)?;
        let trace = [("TIDEWATER_LOG", "trace")];
        let traced = project.start_with(&Project::SYNC, &trace)?.wait()?;
        shows_no_secret(project, &traced, &[PASSWORD, WRONG])?;
        for arguments in [&Project::SYNC[..], &["check", "--destination", "destination.json"]] {
            let outcome = project.run(arguments)?;
            refusal(project, outcome, &named).with_context(|| format!("{key} {value}"))?;
        }
    }
    assert_eq!(lake.table("t").describe()?.metadata_location, before.metadata_location);
    project.write("destination.json", &right)?;
    project.sync()?;
    lake.equals_source(&["public.t"])
}

/// destination.json of a catalog in `database`.
fn destination(project: &Project, database: &Database, parameters: &str) -> Value {
    let (port, name) = (database.server.port(), &database.name);
    json!({"type": "ICEBERG", "writer": {
        "catalog_type": "jdbc",
        "jdbc_url": format!("jdbc:postgresql://127.0.0.1:{port}/{name}{parameters}"),
        "jdbc_username": USER,
        "jdbc_password": PASSWORD,
        "iceberg_s3_path": format!("file://{}/lake", project.path().display()),
        "normalization": true,
    }})
}

/// A project with one selected table, and a database for its catalog.
fn project_with_catalog(label: &str, server: &Arc<Server>) -> Result<(Project, Database)> {
    let source = Database::new(label)?;
    source.psql(TABLE)?;
    let project = Project::new(&source)?;
    project.discover()?;
    project.select(&["public.t"], plain())?;
    Ok((project, Database::on(server, "catalog")?))
}

const CHECK: [&str; 3] = ["check", "--destination", "destination.json"];
const TABLES: &str = "SELECT count(*), count(previous_metadata_location) FROM iceberg_tables";

#[test]
fn a_server_that_wants_tls_gets_it() -> Result<()> {
    let hba = vec!["hostnossl all all 127.0.0.1/32 reject".to_owned()];
    let server = Arc::new(Server::start(&Options { tls: true, hba, ..Options::default() })?);
    let (project, catalog) = project_with_catalog("tls_catalog", &server)?;
    project.write("destination.json", &destination(&project, &catalog, "?sslmode=disable"))?;
    let outcome = project.run(&Project::SYNC)?;
    refusal(&project, outcome, &["no encryption", "sslmode=require"])?;
    for (parameters, tables) in [("?sslmode=require", "1|0"), ("", "1|1")] {
        project.write("destination.json", &destination(&project, &catalog, parameters))?;
        project.run(&CHECK)?.succeeded()?;
        project.sync()?;
        assert_eq!(catalog.psql(TABLES)?, tables, "{parameters}");
    }
    Ok(())
}

#[test]
fn a_servers_certificate_is_verified_as_the_url_asks() -> Result<()> {
    let options = Options { tls: true, ..Options::default() };
    let options = options.set("listen_addresses", "127.0.0.1,127.0.0.2");
    let server = Arc::new(Server::start(&options)?);
    let (project, catalog) = project_with_catalog("verified_catalog", &server)?;
    let authority = &server.certificates().context("a server with TLS")?.authority;
    let authority = authority.display();
    let of = |host: &str, parameters: &str| {
        let mut file = destination(&project, &catalog, parameters);
        let url = file["writer"]["jdbc_url"].as_str().unwrap_or_default();
        file["writer"]["jdbc_url"] = json!(url.replace("127.0.0.1", host));
        project.write("destination.json", &file)
    };
    for (parameters, tables) in [
        (format!("?sslmode=verify-ca&sslrootcert={authority}"), "1|0"),
        (format!("?sslmode=verify-full&sslrootcert={authority}"), "1|1"),
        (format!("?ssl=true&sslrootcert={authority}"), "1|1"),
    ] {
        of("localhost", &parameters)?;
        project.run(&CHECK)?.succeeded()?;
        project.sync()?;
        assert_eq!(catalog.psql(TABLES)?, tables, "{parameters}");
    }
    let elsewhere = tempfile::tempdir()?;
    let other = Certificates::make(elsewhere.path(), &["DNS:localhost"], "x")?.authority;
    let other = other.display();
    let no_file = elsewhere.path().join("no-such-file");
    let no_file = no_file.display();
    // 127.0.0.2 is no name of the certificate.
    for (host, parameters, named) in [
        (
            "localhost",
            format!("?sslmode=verify-ca&sslrootcert={other}"),
            ["certificate", "sslrootcert"],
        ),
        ("localhost", "?sslmode=verify-full".to_owned(), ["certificate", "sslrootcert"]),
        (
            "127.0.0.2",
            format!("?sslmode=verify-full&sslrootcert={authority}"),
            ["127.0.0.2", "sslmode=verify-ca"],
        ),
        (
            "localhost",
            format!("?sslmode=verify-full&sslrootcert={no_file}"),
            ["no-such-file", "sslrootcert"],
        ),
    ] {
        of(host, &parameters)?;
        let outcome = project.run(&Project::SYNC)?;
        refusal(&project, outcome, &named)?;
    }
    of("127.0.0.2", &format!("?sslmode=verify-ca&sslrootcert={authority}"))?;
    project.sync()?;
    Ok(())
}

#[test]
fn a_server_that_refuses_tls_is_asked_without_unless_it_is_required() -> Result<()> {
    let hba = vec!["hostssl all all 127.0.0.1/32 reject".to_owned()];
    let server = Arc::new(Server::start(&Options { tls: true, hba, ..Options::default() })?);
    let (project, catalog) = project_with_catalog("no_tls_catalog", &server)?;
    project.write("destination.json", &destination(&project, &catalog, "?sslmode=require"))?;
    let outcome = project.run(&Project::SYNC)?;
    refusal(&project, outcome, &["rejects connection", "SSL encryption", "pg_hba.conf"])?;
    project.write("destination.json", &destination(&project, &catalog, ""))?;
    project.sync()?;
    assert_eq!(catalog.psql(TABLES)?, "1|0");
    Ok(())
}

#[test]
fn tables_of_the_old_layout_in_a_schema_of_their_own_are_used_as_they_are() -> Result<()> {
    let (project, catalog) = project_with_catalog("old_layout", &Server::shared()?)?;
    catalog.psql(
        "CREATE SCHEMA \"my lake\"; CREATE TABLE \"my lake\".iceberg_tables (
           catalog_name varchar(255) NOT NULL, table_namespace varchar(255) NOT NULL,
           table_name varchar(255) NOT NULL, metadata_location varchar(1000),
           previous_metadata_location varchar(1000),
           PRIMARY KEY (catalog_name, table_namespace, table_name))",
    )?;
    let schema = "?currentSchema=%22my%20lake%22";
    project.write("destination.json", &destination(&project, &catalog, schema))?;
    project.sync()?;
    project.sync()?;
    project.run(&CHECK)?.succeeded()?;
    let within = |sql: &str| catalog.psql(&format!("SET search_path = \"my lake\"; {sql}"));
    assert_eq!(within(TABLES)?, "1|1");
    let columns = "SELECT count(*) FROM information_schema.columns \
         WHERE table_name = 'iceberg_tables'";
    assert_eq!(within(columns)?, "5");
    Ok(())
}

#[test]
fn a_role_that_may_not_write_is_told_by_check() -> Result<()> {
    let (project, catalog) = project_with_catalog("read_only", &Server::shared()?)?;
    let role = format!("reader_of_{}", catalog.name);
    catalog.psql(&format!(
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC; CREATE ROLE {role} LOGIN PASSWORD '{WRONG}'"
    ))?;
    let mut writer = destination(&project, &catalog, "");
    writer["writer"]["jdbc_username"] = json!(role);
    writer["writer"]["jdbc_password"] = json!(WRONG);
    project.write("destination.json", &writer)?;
    for arguments in [&CHECK[..], &Project::SYNC] {
        let outcome = project.run(arguments)?;
        refusal(&project, outcome, &["permission denied", "jdbc_username", "iceberg_tables"])?;
    }
    // Once somebody else has made the tables, writing them is enough.
    project.write("destination.json", &destination(&project, &catalog, ""))?;
    project.sync()?;
    project.write("destination.json", &writer)?;
    let outcome = project.run(&CHECK)?;
    refusal(&project, outcome, &["permission denied", "iceberg_tables"])?;
    catalog.psql(&format!(
        "GRANT SELECT, INSERT, UPDATE, DELETE
         ON iceberg_tables, iceberg_namespace_properties TO {role}"
    ))?;
    project.run(&CHECK)?.succeeded()?;
    project.sync()?;
    assert_eq!(catalog.psql(TABLES)?, "1|1");
    Ok(())
}

/// What org.apache.iceberg.jdbc.JdbcUtil asks of a catalog's tables (V1).
const JAVA_LOADS: &str = "SELECT catalog_name, table_namespace, table_name, metadata_location, \
    previous_metadata_location FROM iceberg_tables WHERE catalog_name = 'olake_iceberg' \
    AND table_name = 't' AND (iceberg_type = 'TABLE' OR iceberg_type IS NULL)";
const JAVA_LISTS: &str = "SELECT DISTINCT table_namespace FROM iceberg_tables \
    WHERE catalog_name = 'olake_iceberg' UNION SELECT DISTINCT namespace \
    FROM iceberg_namespace_properties WHERE catalog_name = 'olake_iceberg'";

/// The rows that Java's swap from `base` to `next` changes.
fn java_swaps(catalog: &Database, base: &str, next: &str) -> Result<String> {
    catalog.psql(&format!(
        "WITH swapped AS (UPDATE iceberg_tables
           SET metadata_location = '{next}', previous_metadata_location = '{base}'
           WHERE catalog_name = 'olake_iceberg' AND table_name = 't'
           AND metadata_location = '{base}' AND (iceberg_type = 'TABLE' OR iceberg_type IS NULL)
           RETURNING 1)
         SELECT count(*) FROM swapped"
    ))
}

#[test]
fn the_statements_of_java_find_and_swap_our_tables() -> Result<()> {
    let (project, catalog) = project_with_catalog("java", &Server::shared()?)?;
    project.write("destination.json", &destination(&project, &catalog, ""))?;
    project.sync()?;
    let namespace = format!("postgres_{}_public", project.database().name);
    let found = catalog.psql(JAVA_LOADS)?;
    let [_, found_in, _, first, previous] = found.split('|').collect::<Vec<_>>()[..] else {
        panic!("not one table: {found}")
    };
    assert_eq!((found_in, previous), (namespace.as_str(), ""));
    assert_eq!(catalog.psql(JAVA_LISTS)?, namespace);

    // A commit of Java's, that changes nothing but the metadata's place.
    let theirs = first.replace("/00000-", "/00001-java-");
    let [from, to] = [first, &theirs].map(|url| url.trim_start_matches("file://").to_owned());
    std::fs::copy(&from, &to)?;
    assert_eq!(java_swaps(&catalog, first, &theirs)?, "1");
    project.database().psql(ADD)?;
    project.sync()?;
    let ours = catalog.psql(
        "SELECT metadata_location, previous_metadata_location, iceberg_type \
         FROM iceberg_tables",
    )?;
    assert!(ours.contains("/00002-") && ours.ends_with(&format!("|{theirs}|TABLE")), "{ours}");
    assert_eq!(java_swaps(&catalog, &theirs, first)?, "0");
    Ok(())
}

/// Sessions that wait for a lock in the catalog.
const WAITING: &str = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() \
    AND wait_event_type = 'Lock' AND query LIKE 'UPDATE iceberg_tables%'";

#[test]
fn a_swap_that_waits_too_long_is_cancelled_and_made_once() -> Result<()> {
    let (project, catalog) = project_with_catalog("locked", &Server::shared()?)?;
    project.write("destination.json", &destination(&project, &catalog, ""))?;
    project.sync()?;
    let lock = catalog
        .psql_background("BEGIN; SELECT * FROM iceberg_tables FOR UPDATE; SELECT pg_sleep(120)")?;
    let sleeping = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() \
         AND wait_event = 'PgSleep'";
    poll("the row is locked", || Ok(!catalog.psql(sleeping)?.is_empty()))?;
    let sync = project.start(&Project::SYNC)?;
    let mut first = String::new();
    poll("the swap waits", || {
        first = catalog.psql(WAITING)?;
        Ok(!first.is_empty())
    })?;
    poll("it is cancelled and another waits", || {
        let waiting = catalog.psql(WAITING)?;
        Ok(!waiting.is_empty() && waiting != first)
    })?;
    drop(lock);
    sync.wait()?.succeeded()?;
    assert_eq!(catalog.psql(TABLES)?, "1|1");
    let current = catalog.psql("SELECT metadata_location FROM iceberg_tables")?;
    assert!(current.contains("/00001-"), "{current}");
    Ok(())
}
