//! What only a REST catalog has: namespaces and warehouses that it refuses, tokens,
//! signatures, and keys that it lends.

mod login;
mod refusals;
mod vended;

use anyhow::Result;
use serde_json::{Value, json};
use tests::iceberg::front::Front;
use tests::iceberg::pair::{Catalog, Pair, Store};
use tests::iceberg::seaweed::{self, Seaweed};
use tests::run::{Outcome, Project};

use super::Lake;
use crate::plain;

const PAIR: Pair = Pair::new(Catalog::Rest, Store::S3);
const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2)";
const ADD: &str = "INSERT INTO t SELECT max(id) + 1 FROM t";
const WRONG: &str = "not-the-secret";

fn refusal(project: &Project, outcome: Outcome, named: &[&str]) -> Result<()> {
    super::refusal(project, outcome, &[seaweed::SECRET, WRONG], named).map(drop)
}

/// A lake with one selected table that is not synced yet.
fn lake(label: &str) -> Result<Lake> {
    let lake = Lake::new(PAIR, label, TABLE)?;
    lake.project.select(&["public.t"], plain())?;
    Ok(lake)
}

/// The lake with its table synced.
fn synced(label: &str) -> Result<Lake> {
    let lake = lake(label)?;
    lake.project.sync()?;
    Ok(lake)
}

/// Changes settings of destination.json; null takes one away.
fn set(project: &Project, settings: Value) -> Result<()> {
    project.edit("destination.json", |file| {
        for (key, value) in settings.as_object().into_iter().flatten() {
            file["writer"][key] = value.clone();
        }
    })
}

/// A front that the lake's catalog is reached by from now on.
fn fronted(lake: &Lake, settings: Value) -> Result<Front> {
    let front = Front::start(&Seaweed::shared()?, settings)?;
    let url = format!("http://{}", front.address());
    set(&lake.project, json!({"rest_catalog_url": url, "oauth2_uri": null}))?;
    Ok(front)
}
