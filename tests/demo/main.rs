//! `./build.sh demo`: a database, a sync and its result, on this machine.
//!
//! ```text
//! throwaway PostgreSQL ← shop.sql
//!   → driver-postgres discover → streams.json (all selected)
//!   → driver-postgres sync     → Parquet files
//!   → the same questions to PostgreSQL and to DuckDB, answers compared
//!   → driver-postgres sync     → an Iceberg table
//! ```
//!
//! The server goes when the demo ends; the files stay, to be looked at.

mod iceberg;
mod verify;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::postgres::{Options, PASSWORD, Server, USER};

const DATABASE: &str = "shop";
/// Where a stream's table lies below `local_path`, by its database and schema.
const DESTINATION: &str = "postgres_shop_public";
/// The stream of streams.json that is shown.
const SHOWN: &str = "products";

fn main() -> ExitCode {
    match demo() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo() -> Result<()> {
    let directory = tempfile::Builder::new().prefix("tidewater-demo-").tempdir()?.keep();

    let started = Instant::now();
    headline("A throwaway PostgreSQL with a web shop and a million taxi rides");
    let server = Server::start(&Options::default())?;
    server.psql("postgres", &format!("CREATE DATABASE {DATABASE}"))?;
    server.psql(DATABASE, include_str!("shop.sql")).context("filling the shop")?;
    println!(
        "PostgreSQL {} on 127.0.0.1:{}, filled in {:.1} s",
        server.build().version,
        server.port(),
        started.elapsed().as_secs_f64()
    );

    let files = write_configs(&directory, &server)?;
    headline("What is there to replicate?");
    let output = driver_postgres(&["discover", "--config", &files.source], Stdio::null())?;
    ensure!(output, "discover failed: see above");
    select(&files.streams)?;
    show_excerpt(&files.streams)?;

    headline("Replicate it");
    let sync = [
        "sync",
        "--config",
        &files.source,
        "--catalog",
        &files.streams,
        "--destination",
        &files.destination,
    ];
    ensure!(driver_postgres(&sync, Stdio::null())?, "sync failed: see above");

    headline("Does the copy say what the database says?");
    let tables = directory.join("lake").join(DESTINATION);
    verify::verify(&server, DATABASE, &tables)?;

    let lake = iceberg::Lake::make(&directory, &files)?;

    drop(server);
    farewell(&directory, &tables, &lake, &sync)
}

/// The three config files, as arguments.
struct Files {
    source: String,
    streams: String,
    destination: String,
}

fn write_configs(directory: &Path, server: &Server) -> Result<Files> {
    let source = json!({
        "host": "127.0.0.1",
        "port": server.port(),
        "database": DATABASE,
        "username": USER,
        "password": PASSWORD,
        "ssl": {"mode": "disable"},
        "default_mode": "full_refresh",
        "max_threads": 3,
    });
    let destination = json!({
        "type": "PARQUET",
        "writer": {"local_path": directory.join("lake"), "normalization": true},
    });
    let path = |name: &str| directory.join(name).display().to_string();
    let files = Files {
        source: path("source.json"),
        streams: path("streams.json"),
        destination: path("destination.json"),
    };
    std::fs::write(&files.source, serde_json::to_string_pretty(&source)?)?;
    std::fs::write(&files.destination, serde_json::to_string_pretty(&destination)?)?;
    Ok(files)
}

/// What a user does in an editor: a directory per month for one stream.
fn select(streams: &str) -> Result<()> {
    let mut catalog: Value = serde_json::from_str(
        &std::fs::read_to_string(streams).context("discover wrote no streams.json")?,
    )?;
    let selected = catalog["selected_streams"]["public"]
        .as_array_mut()
        .context("discover selected no stream of the schema public")?;
    for stream in selected {
        if stream["stream_name"] == "visits" {
            stream["partition_regex"] =
                json!("/month={visited_at,unknown,YYYY}-{visited_at,unknown,MM}");
        }
    }
    std::fs::write(streams, serde_json::to_string_pretty(&catalog)?)?;
    Ok(())
}

/// One stream of streams.json, its selection and what discover found.
fn show_excerpt(streams: &str) -> Result<()> {
    let catalog: Value = serde_json::from_slice(&std::fs::read(streams)?)?;
    let one = |list: &Value, name: fn(&Value) -> &Value| {
        list.as_array().and_then(|list| list.iter().find(|item| name(item) == SHOWN).cloned())
    };
    let excerpt = json!({
        "selected_streams": {
            "public": [one(&catalog["selected_streams"]["public"], |item| &item["stream_name"])]
        },
        "streams": [one(&catalog["streams"], |item| &item["stream"]["name"])],
    });
    println!("\nAll are selected. Of streams.json, {SHOWN}:\n");
    for line in compact(&serde_json::to_string_pretty(&excerpt)?).lines() {
        println!("  {line}");
    }
    Ok(())
}

/// Lists of words on one line each.
fn compact(pretty: &str) -> String {
    let mut text = String::new();
    let mut in_words = false;
    let mut lines = pretty.lines().peekable();
    while let Some(line) = lines.next() {
        let next = lines.peek().map_or("", |next| next.trim());
        in_words = match line.ends_with('[') {
            true => next.starts_with('"') && !next.contains(": "),
            false => in_words && !line.trim().starts_with(']'),
        };
        let trimmed = if text.ends_with('\n') || text.is_empty() { line } else { line.trim() };
        text.push_str(trimmed);
        match (in_words, line.ends_with(',')) {
            (true, true) => text.push(' '),
            (true, false) => {}
            (false, _) => text.push('\n'),
        }
    }
    text
}

/// Shows and runs `./build.sh driver-postgres …`; whether it succeeded.
fn driver_postgres(arguments: &[&str], stdout: Stdio) -> Result<bool> {
    println!("$ {}", shown(arguments));
    let status = Command::new("./build.sh")
        .arg("driver-postgres")
        .args(arguments)
        .current_dir(project_root()?)
        .stdout(stdout)
        .status()
        .context("starting ./build.sh")?;
    Ok(status.success())
}

fn shown(arguments: &[&str]) -> String {
    format!("./build.sh driver-postgres {}", arguments.join(" ")).replace(" --", " \\\n    --")
}

fn project_root() -> Result<PathBuf> {
    let package = tests::parts::package();
    Ok(package.parent().context("the package lies in the project")?.to_owned())
}

fn headline(text: &str) {
    println!("\n━━ {text}\n");
}

fn farewell(directory: &Path, tables: &Path, lake: &iceberg::Lake, sync: &[&str]) -> Result<()> {
    let python = tests::parts::python().map_or("python3".into(), |path| path.display().to_string());
    let tables = tables.display();
    headline("Now you");
    println!("The server is gone; the files stay in {}:", directory.display());
    println!(
        "\n  DuckDB   {python} -c \"import duckdb; print(duckdb.sql('''\n             \
         SELECT payment, count(*) AS trips, avg(fare) AS fare\n             \
         FROM '{tables}/trips/*.parquet' GROUP BY payment''').fetchall())\""
    );
    println!(
        "\n  pandas   {python} -c \"import pandas; print(\n             \
         pandas.read_parquet('{tables}/products').head().T)\""
    );
    lake.farewell()?;
    println!("\nWith a database of your own, write a source.json like the one there, then");
    println!("  {}", shown(&["discover", "--config", "source.json"]));
    println!(
        "  {}",
        shown(&[
            sync[0],
            "--config",
            "source.json",
            "--catalog",
            "streams.json",
            "--destination",
            "destination.json"
        ])
    );
    Ok(())
}
