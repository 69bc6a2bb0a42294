//! Logs, and what must not be in them.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::run::poll;
use tests::services::{Service, sync_through};

const SQL: &str = "
    CREATE TABLE a (id int PRIMARY KEY, v text);
    INSERT INTO a SELECT i, 'a' FROM generate_series(1, 100) i;";

#[test]
fn logs_are_objects_that_say_which_stream_and_load_they_are_about() -> Result<()> {
    let project = crate::project("logs", SQL)?;
    let source = Service::source(&["--log-format", "json"])?;
    let writer = Service::writer(&["--log-format", "json"])?;
    project.run(&sync_through(Some(&source), &[&writer]))?.succeeded()?;
    let lines = || -> Result<Vec<Value>> {
        let read = |line: &str| serde_json::from_str(line).with_context(|| line.to_owned());
        writer.log().lines().map(read).collect()
    };
    let find = |message: &str| -> Result<Option<Value>> {
        Ok(lines()?.into_iter().find(|line| line["message"] == message))
    };
    poll("the commit is logged", || Ok(find("committed")?.is_some()))?;
    let committed = find("committed")?.context("committed")?;
    assert_eq!(committed["stream"], "public.a", "{committed}");
    assert_eq!(committed["rows"], 100, "{committed}");
    assert_eq!(committed["span"]["name"], "commit", "{committed}");
    let staged = find("staged")?.context("staged")?;
    assert_eq!(staged["chunk"], 0, "{staged}");
    assert_eq!(staged["load"], committed["span"]["load"], "{staged} {committed}");
    Ok(())
}

#[test]
fn logs_are_text_where_that_is_asked_for() -> Result<()> {
    let writer = Service::writer(&["--log-format", "text"])?;
    poll("it logs", || Ok(writer.log().contains("listening")))?;
    ensure!(!writer.log().contains('{'), "{}", writer.log());
    Ok(())
}
