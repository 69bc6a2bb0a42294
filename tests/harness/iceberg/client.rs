//! PyIceberg as a client of one catalog (`readers/iceberg.py`).

use std::process::Command;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::warehouse::CATALOG_NAME;
use crate::answers::Script;
use crate::parts;

static PYICEBERG: Script = Script::new(start);

/// PyIceberg's properties of a catalog, and a way to use it.
#[derive(Clone, Debug)]
pub struct Client {
    properties: Value,
}

impl Client {
    /// A client with these properties.
    pub fn new(properties: Value) -> Client {
        Client { properties }
    }

    /// The same, but what lies at the address `from` is reached at `to`.
    pub fn redirected(&self, from: &str, to: &str) -> Client {
        Client { properties: redirected(&self.properties, from, to) }
    }

    /// Runs a command of `iceberg.py`; the catalog is added to the request.
    pub fn call(&self, command: &str, mut request: Value) -> Result<String> {
        request["command"] = command.into();
        request["name"] = CATALOG_NAME.into();
        request["catalog"] = self.properties.clone();
        PYICEBERG.ask(&request).with_context(|| command.to_owned())
    }

    /// As [`Client::call`], of a command that answers with JSON.
    pub fn ask<T: DeserializeOwned>(&self, command: &str, request: Value) -> Result<T> {
        let text = self.call(command, request)?;
        serde_json::from_str(&text).with_context(|| format!("{command} answered {text:?}"))
    }
}

/// The JSON with another address in its texts.
pub fn redirected(value: &Value, from: &str, to: &str) -> Value {
    match value {
        Value::String(text) => Value::String(text.replace(from, to)),
        Value::Array(items) => items.iter().map(|item| redirected(item, from, to)).collect(),
        Value::Object(members) => {
            members.iter().map(|(key, item)| (key.clone(), redirected(item, from, to))).collect()
        }
        other => other.clone(),
    }
}

/// The command, to which nothing that lies about on this machine says where to go.
pub(super) fn without_aws(mut command: Command) -> Command {
    let ambient = std::env::vars_os().map(|(name, _)| name);
    for name in ambient.filter(|name| name.to_string_lossy().starts_with("AWS_")) {
        command.env_remove(name);
    }
    command
}

fn start() -> Result<Command> {
    let mut command = without_aws(Command::new(parts::iceberg_python()?));
    command.args(["-B", "-W", "ignore"]).arg(parts::package().join("readers/iceberg.py"));
    command.env("AWS_EC2_METADATA_DISABLED", "true").env("TZ", "UTC");
    // Its Hive client's Thrift.
    command.env("PYTHONPATH", parts::jvm()?.join("python"));
    // ClickHouse opens files below the working directory only.
    command.current_dir("/");
    Ok(command)
}
