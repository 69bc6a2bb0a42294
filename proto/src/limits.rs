//! Sizes and times that both ends of a connection must share.

use std::time::Duration;

/// Bytes one row may have unless configured (Flight cannot split a row).
pub const MAX_ROW_BYTES: u64 = 128 << 20;

/// What a message may have beyond its largest row: framing, other columns'
/// offsets and validity, a batch's fill.
pub const MESSAGE_SLACK: u64 = 16 << 20;

/// Largest gRPC message of the services that carry no record data.
pub const CONTROL_MESSAGE_BYTES: usize = 64 << 20;

/// The largest Flight message for a given `max_row_bytes`.
pub fn data_message_bytes(max_row_bytes: u64) -> usize {
    usize::try_from(max_row_bytes.saturating_add(MESSAGE_SLACK)).unwrap_or(usize::MAX)
}

/// HTTP/2 flow control: bytes in flight per stream and per connection.
pub const STREAM_WINDOW: u32 = 8 << 20;
/// See [`STREAM_WINDOW`].
pub const CONNECTION_WINDOW: u32 = 16 << 20;
/// Calls that one connection may have in flight.
pub const STREAMS_PER_CONNECTION: u32 = 128;
/// Largest HTTP/2 frame: fewer, larger writes.
pub const MAX_FRAME: u32 = 1 << 20;

/// Time for a TCP connection to a service.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A peer that is silent for so long is gone.
pub const PEER_TIMEOUT: Duration = Duration::from_secs(30);
/// Calls that one peer may have in flight, over all its connections.
pub const STREAMS_PER_PEER: u16 = 256;
/// A call that brings data says within this time what data.
pub const FIRST_MESSAGE: Duration = Duration::from_secs(30);
/// How long a draining service waits for calls in flight.
pub const DRAIN_GRACE: Duration = Duration::from_secs(10);
