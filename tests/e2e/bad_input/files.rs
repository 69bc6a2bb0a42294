//! Config and state files that are no JSON, or JSON of the wrong kind.

use anyhow::{Context, Result};
use serde_json::json;
use tests::run::Project;

use super::{ORDERS, refused, synced};

const FILES: [&str; 4] = ["source.json", "destination.json", "streams.json", "state.json"];

/// Puts these bytes in place of a file, runs a refused sync, and puts the file
/// back.
fn refused_as(project: &Project, file: &str, bytes: &[u8], named: &[&str]) -> Result<String> {
    let path = project.path().join(file);
    let former = std::fs::read(&path)?;
    std::fs::write(&path, bytes)?;
    let error =
        refused(project, named).with_context(|| String::from_utf8_lossy(bytes).into_owned());
    let found = std::fs::read(&path)?;
    std::fs::write(&path, former)?;
    assert_eq!(found, bytes, "{file} was written although it could not be read");
    error
}

#[test]
fn a_malformed_file_is_named_with_line_and_column() -> Result<()> {
    let project = synced("malformed", ORDERS)?;
    for file in FILES {
        let text = b"{\n  \"type\": \"GLOBAL\",\n  \"password\": \"hidden\" \"more\"\n}\n";
        let error = refused_as(&project, file, text, &[file, "line 3", "column 24"])?;
        assert!(!error.contains("hidden"), "a secret was shown: {error}");
        let cut = b"{\n  \"host\": \"h\",\n  \"port\": [1, 2";
        refused_as(&project, file, cut, &[file, "line 3", "column 15"])?;
        refused_as(&project, file, b"{\"a\": \"\xff\xfe\"}", &[file, "UTF-8"])?;
    }
    // An empty state is that of a first run.
    for file in &FILES[..3] {
        refused_as(&project, file, b"", &[file, "line 1"])?;
        refused_as(&project, file, b"[1]", &[file])?;
    }
    Ok(())
}

#[test]
fn a_file_that_is_not_there_is_named_with_its_path() -> Result<()> {
    let project = synced("missing", ORDERS)?;
    for file in &FILES[..3] {
        let (path, away) = (project.path().join(file), project.path().join("away"));
        std::fs::rename(&path, &away)?;
        refused(&project, &[file, "path"])?;
        std::fs::create_dir(&path)?;
        refused(&project, &[file, "Is a directory", "name the file"])?;
        std::fs::remove_dir(&path)?;
        std::fs::rename(&away, &path)?;
    }
    Ok(())
}

#[test]
fn all_faults_of_all_files_come_at_once() -> Result<()> {
    let project = synced("faults", ORDERS)?;
    project.edit("source.json", |source| {
        source["port"] = json!("5432");
        source["max_threads"] = json!(0);
        source["ssl"]["mode"] = json!("on");
        source["default_mode"] = json!("hourly");
    })?;
    project.edit("destination.json", |destination| {
        destination["writer"]["normalization"] = json!("yes");
        destination["writer"]["max_file_size_mb"] = json!(-1);
        destination["writer"]["on_unrepresentable"] = json!("ignore");
    })?;
    project.edit("streams.json", |streams| {
        streams["selected_streams"]["public"][0]["normalization"] = json!("on");
        streams["selected_streams"]["public"][0]["stream_name"] = json!(7);
        streams["streams"][0]["stream"]["name"] = json!(["orders"]);
    })?;
    let named = [
        "source.json has 4 faults",
        "port is \"5432\"; it must be a whole number from 1 to 65535",
        "max_threads is 0",
        "ssl.mode is \"on\"",
        "default_mode is \"hourly\"",
        "destination.json has 3 faults",
        "writer.normalization is \"yes\"; it must be true or false",
        "writer.max_file_size_mb is -1",
        "writer.on_unrepresentable is \"ignore\"",
        "streams.json has 3 faults",
        "selected_streams.public[0].normalization is \"on\"",
        "selected_streams.public[0].stream_name is 7",
        "streams[0].stream.name is a list",
    ];
    let error = refused(&project, &named)?;
    assert_eq!(error.matches("correct the file").count(), 1, "one remedy for all: {error}");
    Ok(())
}

#[test]
fn unknown_keys_only_warn_and_name_what_was_meant() -> Result<()> {
    let project = synced("unknown", ORDERS)?;
    project.edit("source.json", |source| {
        source["max_thread"] = json!(3);
        source["ssl"]["sever_ca"] = json!("x");
    })?;
    project.edit("destination.json", |file| file["writer"]["normalisation"] = json!(true))?;
    project.edit("streams.json", |streams| {
        streams["selected_streams"]["public"][0]["partition_regexp"] = json!("");
    })?;
    let said = project.sync()?.stderr;
    for (key, meant) in [
        ("max_thread", "max_threads"),
        ("ssl.sever_ca", "server_ca"),
        ("writer.normalisation", "normalization"),
        ("partition_regexp", "partition_regex"),
    ] {
        let lines: Vec<&str> = said.lines().filter(|line| line.contains(key)).collect();
        let lines: Vec<_> = lines.iter().filter(|line| line.contains("not known")).collect();
        assert_eq!(lines.len(), 1, "one warning of {key}:\n{said}");
        assert!(lines[0].contains(meant), "{meant} is not proposed: {}", lines[0]);
    }
    Ok(())
}
