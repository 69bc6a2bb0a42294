//! Tables whose reading waits for the test: a sync held at a known moment.
//!
//! ```text
//! gate::create(&database)?;                      // type, function, operator
//! gate::table(&database, "t", 5000, &[(4500, "first")])?;
//! project.select(&["public.t"], gate::selection())?;
//! let gate = Gate::shut(&database, "first")?;    // chunks with such rows wait …
//! let sync = project.start(&Project::SYNC)?;
//! drop(gate);                                    // … until here
//! ```
//!
//! The stream's filter, which is true for every row, calls an operator of our
//! own that waits for an advisory lock. A row fills a page, so that few rows
//! make several chunks.

use anyhow::Result;
use serde_json::{Value, json};

use crate::postgres::{Background, Database};
use crate::run::{Project, poll};

/// Rows, and pages, of a chunk of a small table.
pub const CHUNK: u32 = 1024;

const CREATE: &str = "
    CREATE TYPE gate AS ENUM ('open', 'first', 'second');
    CREATE FUNCTION pass(here gate, unused gate) RETURNS boolean LANGUAGE plpgsql AS $$
    DECLARE key int := array_position(enum_range(NULL::gate), here);
    BEGIN
      IF key > 1 THEN
        -- No waiting for the lock itself: lock_timeout would end it.
        WHILE NOT pg_try_advisory_lock_shared(key) LOOP PERFORM pg_sleep(0.005); END LOOP;
        PERFORM pg_advisory_unlock_shared(key);
      END IF;
      RETURN true;
    END $$;
    CREATE OPERATOR <> (LEFTARG = gate, RIGHTARG = gate, FUNCTION = pass);";

/// Makes what gated tables need in the database.
pub fn create(database: &Database) -> Result<()> {
    database.psql(CREATE)?;
    Ok(())
}

/// Makes `public.<name>` with the ids 1 to `rows`, a page each; the rows `held`
/// by (id, gate) wait for their gate.
pub fn table(database: &Database, name: &str, rows: u32, held: &[(u32, &str)]) -> Result<()> {
    let holds: String =
        held.iter().map(|(id, gate)| format!("WHEN {id} THEN '{gate}'::gate ")).collect();
    let hold = match holds.as_str() {
        "" => "'open'::gate".to_owned(),
        holds => format!("CASE i {holds}ELSE 'open'::gate END"),
    };
    database.psql(&format!(
        "CREATE TABLE {name} (id int PRIMARY KEY, v text, hold gate NOT NULL, padding text)
           WITH (fillfactor = 10);
         INSERT INTO {name} SELECT i, md5(i::text), {hold}, repeat('x', 700)
         FROM generate_series(1, {rows}) i;"
    ))?;
    Ok(())
}

/// The settings of a stream that is gated.
pub fn selection() -> Value {
    json!({"filter": "hold != \"open\""})
}

/// A gate that is shut; opens when dropped.
#[derive(Debug)]
pub struct Gate {
    _holder: Background,
}

impl Gate {
    /// Shuts the gate `name` of the database, and returns when it is.
    pub fn shut(database: &Database, name: &str) -> Result<Gate> {
        let key = format!("array_position(enum_range(NULL::gate), '{name}')");
        let holder = database
            .psql_background(&format!("SELECT pg_advisory_lock({key}); SELECT pg_sleep(600);"))?;
        let held = format!(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted
             AND mode = 'ExclusiveLock' AND objid = {key} AND database =
             (SELECT oid FROM pg_database WHERE datname = current_database())"
        );
        poll(&format!("the gate {name} is shut"), || Ok(database.psql(&held)? == "1"))?;
        Ok(Gate { _holder: holder })
    }
}

/// A database with two gated tables, and a project on it: `a` has five chunks,
/// of which the first waits for the gate `first` and the last for `second`;
/// `b` is small and waits for nothing.
pub fn project(label: &str) -> Result<Project> {
    project_on(&Database::new(label)?)
}

/// As [`project`], in a database that is there.
pub fn project_on(database: &Database) -> Result<Project> {
    create(database)?;
    table(database, "a", 4 * CHUNK + 100, &[(100, "first"), (4 * CHUNK + 50, "second")])?;
    table(database, "b", 50, &[])?;
    let project = Project::new(database)?;
    project.discover()?;
    project.select(&STREAMS, selection())?;
    Ok(project)
}

/// The streams of [`project`].
pub const STREAMS: [&str; 2] = ["public.a", "public.b"];
