//! PyIceberg as a client of one catalog (`readers/iceberg.py`).

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::warehouse::CATALOG_NAME;
use crate::parts;

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
        request["name"] = CATALOG_NAME.into();
        request["catalog"] = self.properties.clone();
        let mut python = Command::new(parts::iceberg_python()?);
        python.arg("-B").arg(parts::package().join("readers/iceberg.py")).arg(command);
        // Nothing that lies about on this machine says where to go.
        let ambient = std::env::vars_os().map(|(name, _)| name);
        for name in ambient.filter(|name| name.to_string_lossy().starts_with("AWS_")) {
            python.env_remove(name);
        }
        python.env("AWS_EC2_METADATA_DISABLED", "true").env("TZ", "UTC");
        // ClickHouse opens files below the working directory only.
        python.current_dir("/");
        python.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = python.spawn().context("starting Python")?;
        let mut stdin = child.stdin.take().context("Python without stdin")?;
        // It reads all of the request before it answers. That it could not is
        // in its status.
        let _ = stdin.write_all(request.to_string().as_bytes());
        drop(stdin);
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("{command}: {}", String::from_utf8_lossy(&output.stderr).trim_end());
        }
        String::from_utf8(output.stdout).context("Python printed no UTF-8")
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
