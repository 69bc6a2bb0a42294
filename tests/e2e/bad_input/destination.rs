//! A destination that cannot be written, belongs to others, or is in use.

use std::net::TcpListener;

use anyhow::Result;
use serde_json::{Value, json};
use tests::run::Project;
use tests::small_disk::SmallDisk;
use tests::verify;

use super::{ORDERS, refused, refused_by, refused_with, select_all, start, synced, visible};

#[test]
fn a_full_disk_is_named_and_the_former_content_stays() -> Result<()> {
    let more = "CREATE TABLE big (id int PRIMARY KEY, noise text);
        INSERT INTO big SELECT i, md5(i::text) FROM generate_series(1, 10) i;";
    let project = crate::project("full", &format!("{ORDERS}{more}"))?;
    let disk = SmallDisk::mount(&project.output(), "size=2m")?;
    select_all(&project)?;
    project.sync()?;
    project.select(&["public.big"], json!({}))?;
    project.database().psql(
        "INSERT INTO big SELECT i, md5(i::text) || md5('a' || i) FROM generate_series(11, 100000) i",
    )?;
    let output = project.output().display().to_string();
    let named = ["public.big", &output, "No space left", "free space", "content is untouched"];
    refused(&project, &named)?;
    // Full to the last byte before anything is begun.
    let rest = std::fs::write(project.output().join("filling"), vec![0; 2 << 20]);
    assert!(rest.is_err(), "the disk was to be filled");
    refused(&project, &named)?;

    std::fs::remove_file(project.output().join("filling"))?;
    disk.remount("size=64m")?;
    select_all(&project)?;
    project.sync()?;
    verify::equals_source(&project, &["public.big", "public.orders"])
}

#[test]
fn a_destination_that_cannot_be_written_is_named_before_anything_is_read() -> Result<()> {
    let project = synced("unwritable", ORDERS)?;
    let file = project.path().join("file");
    std::fs::write(&file, "not a directory")?;
    for path in [file.clone(), file.join("below")] {
        let change = |file: &mut Value| file["writer"]["local_path"] = json!(path);
        let named = [&file.display().to_string(), "local_path"];
        refused_by(&project, "destination.json", change, &named)?;
    }

    let path = project.path().join("read-only");
    let disk = SmallDisk::mount(&path, "size=1m")?;
    disk.remount("ro")?;
    let change = |file: &mut Value| file["writer"]["local_path"] = json!(path);
    let named = [&path.display().to_string(), "ead-only file system", "writable"];
    refused_by(&project, "destination.json", change, &named)?;
    Ok(())
}

#[test]
fn what_others_have_put_in_the_tables_place_is_not_overwritten() -> Result<()> {
    let project = crate::project("foreign", ORDERS)?;
    project.select(&["public.orders"], json!({}))?;
    let table = project.table("public", "orders");
    let named = [&table.display().to_string(), "did not write", "destination_table"];

    std::fs::create_dir_all(&table)?;
    std::fs::write(table.join("theirs.parquet"), "PAR1")?;
    std::fs::write(table.join("notes.txt"), "kept")?;
    refused(&project, &named)?;
    assert_eq!(std::fs::read(table.join("notes.txt"))?, b"kept");
    let refused_too = project.run(&[&["clear-destination"], &Project::SYNC[1..]].concat())?;
    assert_eq!(refused_too.status.code(), Some(1), "{}", refused_too.stderr);
    assert_eq!(std::fs::read(table.join("theirs.parquet"))?, b"PAR1");

    std::fs::remove_dir_all(&table)?;
    std::fs::write(&table, "a file")?;
    refused(&project, &[&table.display().to_string(), "destination_table"])?;
    assert_eq!(std::fs::read(&table)?, b"a file");

    std::fs::remove_file(&table)?;
    let elsewhere = project.path().join("elsewhere");
    std::fs::create_dir(&elsewhere)?;
    std::fs::write(elsewhere.join("theirs.parquet"), "PAR1")?;
    std::os::unix::fs::symlink(&elsewhere, &table)?;
    refused(&project, &[&table.display().to_string(), "destination_table"])?;
    assert_eq!(std::fs::read(elsewhere.join("theirs.parquet"))?, b"PAR1");
    assert!(table.is_symlink(), "the link was replaced");
    Ok(())
}

#[test]
fn another_program_on_the_writers_port_is_named_and_told_nothing() -> Result<()> {
    let project = synced("port", ORDERS)?;
    let silent = TcpListener::bind("127.0.0.1:0")?;
    for port in [project.database().server.port(), silent.local_addr()?.port()] {
        let change = |file: &mut Value| file["writer"]["grpc_port"] = json!(port);
        let named = [&port.to_string(), "grpc_port", "writer-svc"];
        refused_by(&project, "destination.json", change, &named)?;
    }
    // A port where nothing listens on a machine that is not this one.
    let change = |file: &mut Value| {
        file["writer"]["grpc_port"] = json!(9);
        file["writer"]["server_host"] = json!("no-such-host.invalid");
    };
    refused_by(
        &project,
        "destination.json",
        change,
        &["no-such-host.invalid:9", "grpc_port", "without TLS", "--plaintext"],
    )?;
    let elsewhere = ["--writer", "no-such-host.invalid:9", "--plaintext"];
    refused_with(&project, &elsewhere, &["no-such-host.invalid:9", "lookup"])?;
    let named = ["127.0.0.1:9", "source-svc", "refused"];
    refused_with(&project, &["--source", "127.0.0.1:9"], &named)?;
    Ok(())
}

#[test]
fn a_second_sync_with_the_same_state_is_told_of_the_first() -> Result<()> {
    let project = synced("twice", ORDERS)?;
    // A server that never answers keeps the first one busy.
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let (port, source) = (silent.local_addr()?.port(), project.read("source.json")?);
    project.edit("source.json", |source| source["port"] = json!(port))?;
    let first = start(&project, &[])?;
    let _connection = silent.accept()?;
    project.write("source.json", &source)?;

    let named = ["state.json", &format!("process {}", first.pid()), "--state"];
    refused(&project, &named)?;
    let before = visible(&project)?;
    first.kill()?;
    project.sync()?;
    assert_ne!(visible(&project)?, before, "the lock ended with its holder");
    Ok(())
}
