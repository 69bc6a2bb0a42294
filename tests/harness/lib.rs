//! What the end-to-end tests, the demo and the benchmark stand on.
//!
//! In the order a test uses them:
//!
//! - [`parts`]: where installed parts lie, and what to say when one is missing
//! - [`builds`]: the PostgreSQL builds found on this machine
//! - [`supervised`]: servers that end with us
//! - [`account`]: the account PostgreSQL runs under when we are root
//! - [`certificates`]: a certificate authority made for one server
//! - [`postgres`]: a throwaway server, its databases and `psql`
//! - [`standby`]: a streaming standby of a server
//! - [`sshd`]: a throwaway SSH server with an account and names of its own
//! - [`run`]: the `orchestrator` program with its three config files
//! - [`terminal`]: a terminal, and what a command leaves on it
//! - [`services`]: `source-svc` and `writer-svc` on their own
//! - [`python`]: the programs of `examples/python`, and the protocol compiled for them
//! - [`changes`]: a writer-svc driven by its own protocol, without a source
//! - [`names`]: host names of a test's own
//! - [`figures`]: what a process serves at /metrics
//! - [`collector`]: a collector of OpenTelemetry
//! - [`gate`]: tables whose reading waits, to hold a sync at a known moment
//! - [`moment`]: moments of a sync, observed from outside
//! - [`truth`]: what PostgreSQL itself says a table holds
//! - [`reader`]: what DuckDB and pyarrow say the destination holds
//! - [`compare`]: rows against rows, first differences first
//! - [`verify`]: all of that as one call, "the destination equals the source"
//! - [`watch`]: looks at a directory again and again while something runs
//! - [`small_disk`]: a file system that is soon full
//! - [`proxy`]: loses or holds one chosen request between two programs
//! - [`throttle`]: a slow way to a server
//! - [`iceberg`]: the same for Iceberg tables: catalogs, stores, engines
//! - [`bucket`]: plain Parquet in a bucket
//! - [`capture`]: source-svc's change capture alone, with a writer that keeps what it gets
//! - [`random_schema`]: tables of random types with random rows
//! - [`workload`]: random transactions
//! - [`follow`]: tables that are followed, and what a reader makes of them
//! - [`going`]: a sync that goes on
//! - [`heavy`]: what is heavy, in a size of the caller's
//! - [`seeds`]: random transactions and kills by a seed, and equality at its end
//! - [`increments`]: the same for tables that are read incrementally
//!
//! Everything a test starts ends with the test, also when it panics or the
//! test process is killed.

pub mod account;
mod answers;
pub mod bucket;
pub mod builds;
pub mod capture;
pub mod certificates;
pub mod changes;
pub mod collector;
pub mod compare;
pub mod figures;
pub mod follow;
pub mod gate;
pub mod going;
pub mod heavy;
pub mod iceberg;
pub mod increments;
pub mod moment;
pub mod names;
pub mod parts;
pub mod postgres;
pub mod proxy;
pub mod python;
pub mod random_schema;
pub mod reader;
pub mod run;
pub mod seeds;
pub mod services;
pub mod small_disk;
pub mod sshd;
pub mod standby;
pub mod supervised;
pub mod terminal;
pub mod throttle;
pub mod truth;
pub mod verify;
pub mod watch;
pub mod workload;
