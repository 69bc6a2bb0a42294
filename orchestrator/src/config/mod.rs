//! The config files: bytes → plain text → JSON → validated.
//!
//! [`read`] finds the file and its JSON, [`decrypt`] opens an encrypted one,
//! [`secrets`] puts in the secrets that it only names, [`validate`] holds it against its JSON Schema and collects every fault;
//! [`source`] and [`destination`] turn it into what the services are sent.
//! Nothing here talks to a service, and no error holds a secret.

pub mod decrypt;
pub mod destination;
mod glue;
mod hive;
pub mod read;
mod rest;
mod s3;
pub mod secrets;
pub mod source;
pub mod validate;

pub use crate::error::{ConfigError, ConfigFault};
