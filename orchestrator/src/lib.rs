//! The orchestrator: reads the config files, drives the services, and is the
//! only process that persists state. Record data never passes through it.
//!
//! In the order of a run:
//!
//! - [`cli`]: commands and flags
//! - [`config`]: source.json and destination.json, read, decrypted, validated
//! - [`streams`]: streams.json, and what a run makes of it
//! - [`services`]: source-svc and writer-svc, started or dialled; [`discovery`]
//!   finds the writers behind a name, [`writers`] shares work among them
//! - [`spec`], [`check`], [`discover`]: the commands that move no data
//! - [`sync`]: the command that does; [`assign`], [`load`], [`state`],
//!   [`progress`], [`stats`], [`figures`] and [`summary`] are its stages
//! - [`status`]: the command that says what the streams have
//! - [`clear`]: the command that removes what a sync made
//! - [`output`]: machine output to stdout, everything else to stderr

pub mod assign;
pub mod check;
pub mod clear;
pub mod cli;
pub mod config;
pub mod discover;
pub mod discovery;
pub mod error;
pub mod figures;
pub mod load;
pub mod output;
pub mod progress;
pub mod services;
pub mod spec;
pub mod state;
pub mod stats;
pub mod status;
pub mod streams;
pub mod summary;
pub mod sync;
pub mod writers;
