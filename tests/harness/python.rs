//! The programs of `examples/python`, with the protocol compiled for them as
//! their README says.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::parts;
use crate::services::TOKEN;

/// Python with the modules generated from one state of the protos.
#[derive(Debug)]
pub struct Python {
    modules: TempDir,
}

/// The protos of the services here.
pub fn protos() -> PathBuf {
    parts::package().join("../proto")
}

/// The protos as a version released them.
pub fn protos_of(version: &str) -> PathBuf {
    parts::package().join("fixtures/protos").join(version)
}

fn python() -> Result<Command> {
    let mut command = Command::new(parts::grpc_python()?);
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    Ok(command)
}

fn checked(output: Output) -> Result<String> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}{stderr}", String::from_utf8_lossy(&output.stdout));
    Ok(String::from_utf8(output.stdout)?)
}

impl Python {
    /// Compiles the protos below a directory.
    pub fn of(protos: &Path) -> Result<Python> {
        let modules = TempDir::with_prefix("tidewater-protos-")?;
        let to = |flag: &str| format!("--{flag}={}", modules.path().display());
        let mut compile = python()?;
        compile.args(["-m", "grpc_tools.protoc", "-I"]).arg(protos);
        compile.args([to("python_out"), to("grpc_python_out")]).args(files(protos)?);
        checked(compile.output().context("starting protoc")?)?;
        Ok(Python { modules })
    }

    /// Runs a program of the examples with the services' token, to its end.
    pub fn example(&self, program: &str, arguments: &[&str]) -> Result<Output> {
        self.example_with(program, arguments, TOKEN)
    }

    /// The same with another token.
    pub fn example_with(&self, program: &str, arguments: &[&str], token: &str) -> Result<Output> {
        let mut command = python()?;
        command.arg(parts::package().join("../examples/python").join(program)).args(arguments);
        command.env("PYTHONPATH", self.modules.path()).env("TIDEWATER_TOKEN", token);
        command.output().with_context(|| format!("starting {program}"))
    }

    /// What an example prints that has to succeed.
    pub fn says(&self, program: &str, arguments: &[&str]) -> Result<String> {
        checked(self.example(program, arguments)?)
    }
}

fn files(protos: &Path) -> Result<Vec<PathBuf>> {
    let listed = std::fs::read_dir(protos.join("tidewater/v1"))?;
    let mut files = listed.map(|file| Ok(file?.path())).collect::<Result<Vec<_>>>()?;
    files.sort();
    ensure!(!files.is_empty(), "no protos in {}", protos.display());
    Ok(files)
}

/// Runs SQL in a database of SQLite.
pub fn sqlite(database: &Path, sql: &str) -> Result<()> {
    let script = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).executescript(sys.argv[2])";
    let output = python()?.args(["-c", script]).arg(database).arg(sql).output()?;
    checked(output).map(|_| ())
}

/// What a client made of the protos `old` would find changed in `new`, a line each.
pub fn incompatibilities(old: &Path, new: &Path) -> Result<Vec<String>> {
    let script = parts::package().join("readers/protos.py");
    let output = python()?.arg(script).arg(old).arg(new).output()?;
    Ok(checked(output)?.lines().map(str::to_owned).collect())
}
