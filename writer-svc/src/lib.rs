//! writer-svc: owns every file and every commit of a destination, and knows
//! nothing of PostgreSQL.
//!
//! ```text
//! DoPut ─► receive ─► (reduce) ─► layout ─► partition ─► spill ─► encode ─► stage ┄┄► Commit ─► parquet | iceberg
//!          messages   columns   rows' paths  by path  files     manifest            visible
//! ```
//!
//! The modules, in the order of the data:
//!
//! - [`service`]: the gRPC calls and Flight's DoPut
//! - [`receive`]: one DoPut: messages in, one staged chunk or nothing out
//! - [`rows`]: from there into the files of a stage; changes of rows first
//!   become what they come to ([`reduce`])
//! - [`row_metadata`]: what a stream says of each row, apart from its columns
//! - [`layout`]: source columns → destination columns and metadata columns
//!   ([`naming`], [`row_id`], and the values as text and JSON, [`render`];
//!   [`decimal`]: how decimals come and what is said of them)
//! - [`partition`]: which rows go to which directory
//! - [`spill`]: rows in the order of their partitions, in bounded memory
//! - [`encode`]: record batches → Parquet files of bounded size
//!   ([`encoding`]: which encoding suits a column; the pages of columns that are
//!   not nested are ours, those of lists are `parquet`'s)
//! - [`stage`]: the files of one chunk, invisible to readers, and their manifest
//! - [`complete`]: changes that do not say all of what they come to, by what the table
//!   holds ([`scan`]: one file of it; [`object`]: a file read in parts)
//! - [`target`]: a table at a destination, whatever its kind
//!   ([`record`]: the record of its last commit, as it is stored)
//! - [`parquet`]: stage, prepare, commit and drop of a table directory
//! - [`iceberg`]: the same of an Iceberg table, and its catalogs
//! - [`storage`]: paths that cannot leave the destination, durable file work
//!   ([`allow`]: the places that there may be destinations in)
//! - [`s3`]: the objects of a bucket, uploads, and what a store refuses
//! - [`aws`]: signed requests to AWS's other services
//!
//! Invariants: no file that a reader's `*.parquet` sees is ever partial; a
//! chunk is staged whole or not at all; a table is exchanged whole or not at all.
//!
//! Memory: one stream holds at most [`receive::QUEUE`] undecoded messages, one
//! decoded batch and its destination form, one row group
//! ([`Options::row_group_bytes`]) and, when the table is partitioned, the
//! sorter's buffer ([`Options::sort_bytes`]); on its way to an object store,
//! [`Options::upload_parts`] + 1 parts of [`Options::upload_part_bytes`]; a
//! message is no larger than [`Options::max_row_bytes`] plus [`proto::limits::MESSAGE_SLACK`], and no
//! more than [`Options::max_streams`] streams are received at once. Nothing
//! grows with the table or with its number of partitions.

pub mod allow;
pub mod aws;
pub mod certificate;
pub mod complete;
pub mod decimal;
pub mod encode;
pub mod encoding;
pub mod error;
pub mod iceberg;
pub mod layout;
pub mod naming;
pub mod object;
pub mod parquet;
pub mod partition;
pub mod receive;
pub mod record;
pub mod reduce;
pub mod render;
pub mod row_id;
pub mod row_metadata;
pub mod rows;
pub mod s3;
pub mod scan;
pub mod service;
pub mod spill;
pub mod stage;
pub mod storage;
pub mod target;

use arrow_flight::flight_service_server::FlightServiceServer;
use proto::Tls;
use proto::limits;
use proto::listen::Listener;
use proto::token::{RequireToken, Token};
use proto::v1::writer_server::WriterServer;
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;

pub use error::WriterError;

/// The bounds that the writer keeps. Sizes are bytes.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Largest row to take, in bytes of its Arrow form.
    #[arg(long, env = "TIDEWATER_MAX_ROW_BYTES", default_value_t = limits::MAX_ROW_BYTES)]
    pub max_row_bytes: u64,

    /// Streams to receive at once; one more is refused and may try again.
    #[arg(long, env = "TIDEWATER_MAX_STREAMS", default_value_t = 16,
          value_parser = clap::value_parser!(u16).range(1..))]
    pub max_streams: u16,

    /// Encoded bytes a stream holds before it writes them out as a row group.
    #[arg(long, env = "TIDEWATER_ROW_GROUP_BYTES", default_value_t = 64 << 20,
          value_parser = clap::value_parser!(u64).range(1 << 16..1 << 40))]
    pub row_group_bytes: u64,

    /// Bytes of rows a partitioned stream sorts in memory before it spills.
    #[arg(long, env = "TIDEWATER_SORT_BYTES", default_value_t = 64 << 20,
          value_parser = clap::value_parser!(u64).range(1 << 16..1 << 40))]
    pub sort_bytes: u64,

    /// Bytes of a part of a file on its way to an object store.
    #[arg(long, env = "TIDEWATER_UPLOAD_PART_BYTES", default_value_t = 8 << 20,
          value_parser = clap::value_parser!(u64).range(5 << 20..1 << 30))]
    pub upload_part_bytes: u64,

    /// Directory or s3://bucket/prefix that may be written to, with all below
    /// it, and nothing else; may be given several times. Required off loopback.
    #[arg(long, env = "TIDEWATER_ALLOW", value_name = "PLACE", value_delimiter = ',')]
    pub allow: Vec<allow::Place>,

    /// Parts that a stream sends at once.
    #[arg(long, env = "TIDEWATER_UPLOAD_PARTS", default_value_t = 2,
          value_parser = clap::value_parser!(u16).range(1..))]
    pub upload_parts: u16,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            max_row_bytes: limits::MAX_ROW_BYTES,
            max_streams: 16,
            row_group_bytes: 64 << 20,
            sort_bytes: 64 << 20,
            upload_part_bytes: 8 << 20,
            upload_parts: 2,
            allow: Vec::new(),
        }
    }
}

/// Serves the writer on `listener` until `shutdown`, then drains.
pub async fn run(
    options: Options,
    listener: impl Into<Listener>,
    token: Option<Token>,
    tls: Tls,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let listener = listener.into();
    anyhow::ensure!(
        !options.allow.is_empty() || listener.is_local()?,
        "writer-svc would listen off loopback and write wherever a caller asks: give --allow and \
         a directory or s3://bucket/prefix, or listen on 127.0.0.1"
    );
    let message_bytes = limits::data_message_bytes(options.max_row_bytes);
    let service = service::WriterService::new(options);
    let threads = service.threads();
    let gate = RequireToken(token.clone());
    proto::serve::serve("writer-svc", listener, token, tls, shutdown, |routes| {
        let writer = WriterServer::new(service.clone())
            .max_decoding_message_size(limits::CONTROL_MESSAGE_BYTES)
            .max_encoding_message_size(limits::CONTROL_MESSAGE_BYTES);
        let flight = FlightServiceServer::new(service).max_decoding_message_size(message_bytes);
        routes.add_service(InterceptedService::new(writer, gate.clone()));
        routes.add_service(InterceptedService::new(flight, gate));
    })
    .await?;
    // A call that was given up has left its thread to remove what it wrote.
    threads.close();
    if tokio::time::timeout(limits::DRAIN_GRACE, threads.wait()).await.is_err() {
        tracing::warn!("{} calls that were given up have not cleaned up yet", threads.len());
    }
    Ok(())
}
