//! COPY's data, led around tokio-postgres.
//!
//! ```text
//! server ─► Tapped ─┬─ CopyData's payload, in blocks ──(2)──► Copying
//!                   └─ every other message ─► tokio-postgres
//! ```
//!
//! tokio-postgres hands COPY's data on message by message, one for each row,
//! which cost half as much as decoding them. Here the payloads of many messages
//! are one block of bytes, and the command tag, which tokio-postgres keeps to
//! itself, is known: a COPY is complete when the server says so and counts as
//! many rows as arrived.
//!
//! Invariants: tokio-postgres sees the messages of a COPY without data, whole
//! and in their order; a block ends where a message ends, unless the message
//! alone is larger; no more than [`BLOCKS`] blocks wait.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, oneshot};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_util::sync::PollSender;

use crate::startup::Startup;

/// Bytes asked of the socket at once.
const READ_BYTES: usize = 128 << 10;
/// Bytes at which a block is handed on.
const BLOCK_BYTES: usize = 64 << 10;
/// Memory of a large row is not filled again.
const KEEP_BYTES: usize = 1 << 20;
/// Blocks that wait to be decoded, and as many that come back to be filled.
const BLOCKS: usize = 2;
/// A message's type and length (`src/include/libpq/protocol.h`).
const HEADER: usize = 5;

/// Longer ones are not looked into: "COPY" and 20 digits at most.
const MAX_TAG: usize = 64;

const COPY_OUT: u8 = b'H';
const COPY_DATA: u8 = b'd';
const COPY_DONE: u8 = b'c';
const COMMAND_COMPLETE: u8 = b'C';
const ERROR_RESPONSE: u8 = b'E';

/// Says where a session's COPY data goes; clones are of one session.
#[derive(Clone, Default)]
pub struct Tap {
    sink: Arc<Mutex<Option<Sink>>>,
    /// See [`Tap::of_walsender`].
    walsender: bool,
}

/// Where the data of the COPY at hand goes.
struct Sink {
    /// Gone once the data has ended.
    blocks: Option<PollSender<Vec<u8>>>,
    /// Blocks to fill again.
    emptied: mpsc::Receiver<Vec<u8>>,
    /// Rows, as the command tag counts them.
    tag: Option<oneshot::Sender<u64>>,
}

/// The receiving end of one COPY.
pub struct Copying {
    blocks: mpsc::Receiver<Vec<u8>>,
    emptied: mpsc::Sender<Vec<u8>>,
    tag: oneshot::Receiver<u64>,
}

impl Tap {
    /// Of a session that is to be a walsender's: it takes the commands of
    /// replication, and no extended queries.
    pub fn of_walsender() -> Self {
        Tap { walsender: true, ..Tap::default() }
    }

    fn startup(&self) -> Startup {
        if self.walsender { Startup::ToCome } else { Startup::Sent }
    }

    /// The next COPY's data goes to the answer. Before it is begun.
    pub fn open(&self) -> Copying {
        let (sender, blocks) = mpsc::channel(BLOCKS);
        let (emptied, refill) = mpsc::channel(BLOCKS);
        let (tag, tagged) = oneshot::channel();
        let blocks_out = Some(PollSender::new(sender));
        *self.sink() = Some(Sink { blocks: blocks_out, emptied: refill, tag: Some(tag) });
        Copying { blocks, emptied, tag: tagged }
    }

    fn sink(&self) -> MutexGuard<'_, Option<Sink>> {
        self.sink.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Copying {
    /// The next bytes; `None`: there are no more, for better or worse.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        self.blocks.recv().await
    }

    /// Gives a block's memory back to be filled again.
    pub fn recycle(&self, mut block: Vec<u8>) {
        if block.capacity() > KEEP_BYTES {
            return;
        }
        block.clear();
        // One too many is let go.
        let _ = self.emptied.try_send(block);
    }

    /// The command tag's count of rows; `None`: the connection ended before.
    pub async fn tag(self) -> Option<u64> {
        self.tag.await.ok()
    }
}

/// What lies at the place reached in the bytes read.
#[derive(Clone, Copy, Debug)]
enum At {
    /// A message's header.
    Header,
    /// So many bytes for tokio-postgres.
    Passing(usize),
    /// So many bytes of a CopyData's payload.
    Data(usize),
}

/// A stream to the server whose COPY data goes to the session's [`Tap`].
pub struct Tapped<S> {
    inner: S,
    tap: Tap,
    /// What is written first is changed on its way.
    startup: Startup,
    /// Between CopyOutResponse and CopyDone of a COPY that somebody opened the
    /// tap for.
    tapping: bool,
    /// Bytes read; those from `start` to `end` are still to be looked at.
    read: Box<[u8]>,
    start: usize,
    end: usize,
    at: At,
    /// Payloads; those of whole messages end at `whole`.
    block: Vec<u8>,
    whole: usize,
}

impl<S> Tapped<S> {
    /// `inner` begins with a message of the server.
    pub fn new(inner: S, tap: Tap) -> Self {
        Tapped {
            inner,
            startup: tap.startup(),
            tap,
            tapping: false,
            read: vec![0; READ_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
            at: At::Header,
            block: Vec::new(),
            whole: 0,
        }
    }

    /// The next message's type and length without the type, if it is here as
    /// far as it is looked at.
    fn header(&self) -> io::Result<Option<(u8, usize)>> {
        let here = &self.read[self.start..self.end];
        let Some((&[kind, ref length @ ..], _)) = here.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*length) as usize;
        if length < HEADER - 1 {
            let what = format!("the server sent a message of length {length}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let tag_is_cut = kind == COMMAND_COMPLETE && length < MAX_TAG && here.len() <= length;
        Ok((!tag_is_cut).then_some((kind, length)))
    }

    /// Takes as much of a payload as there is.
    fn collect(&mut self, left: usize) {
        let taken = left.min(self.end - self.start);
        self.block.extend_from_slice(&self.read[self.start..self.start + taken]);
        self.start += taken;
        self.at = At::Data(left - taken);
        if left == taken {
            self.at = At::Header;
            self.whole = self.block.len();
        }
    }

    /// Hands whole messages on, or all there is of one that fills a block.
    fn poll_hand_on(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let cut = if self.whole > 0 { self.whole } else { self.block.len() };
        if cut == 0 {
            return Poll::Ready(());
        }
        let mut guard = self.tap.sink();
        let mut next = Vec::new();
        if let Some(sink) = guard.as_mut()
            && let Some(blocks) = &mut sink.blocks
        {
            match ready!(blocks.poll_reserve(cx)) {
                Ok(()) => {
                    next = sink.emptied.try_recv().unwrap_or_default();
                    next.extend_from_slice(&self.block[cut..]);
                    self.block.truncate(cut);
                    // Cannot fail: there is room.
                    let _ = blocks.send_item(std::mem::take(&mut self.block));
                }
                // Nobody waits for it: what is still to come goes nowhere.
                Err(_) => sink.blocks = None,
            }
        }
        self.block = next;
        self.whole = 0;
        Poll::Ready(())
    }

    /// What a message for tokio-postgres means for the COPY at hand.
    fn notice(&mut self, kind: u8) {
        if !matches!(kind, COPY_OUT | COPY_DONE | COMMAND_COMPLETE | ERROR_RESPONSE) {
            return;
        }
        self.tapping = false;
        let mut guard = self.tap.sink();
        let Some(sink) = guard.as_mut() else { return };
        match kind {
            COPY_OUT => self.tapping = true,
            COPY_DONE => sink.blocks = None,
            COMMAND_COMPLETE if sink.blocks.is_none() => {
                let payload = &self.read[self.start + HEADER..self.end];
                if let (Some(rows), Some(tag)) = (copied(payload), sink.tag.take()) {
                    // Who asked may be gone.
                    let _ = tag.send(rows);
                }
                *guard = None;
            }
            ERROR_RESPONSE => *guard = None,
            _ => {}
        }
    }

    /// Gives tokio-postgres as much as it takes.
    fn pass(&mut self, left: usize, out: &mut ReadBuf<'_>) {
        let passed = left.min(self.end - self.start).min(out.remaining());
        out.put_slice(&self.read[self.start..self.start + passed]);
        self.start += passed;
        self.at = if passed == left { At::Header } else { At::Passing(left - passed) };
    }
}

/// The count of "COPY 42".
fn copied(tag: &[u8]) -> Option<u64> {
    let tag = tag.split(|byte| *byte == 0).next()?;
    std::str::from_utf8(tag).ok()?.strip_prefix("COPY ")?.parse().ok()
}

impl<S: AsyncRead + Unpin> Tapped<S> {
    /// Reads more from the server; `false`: there is no more.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        self.read.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let mut space = ReadBuf::new(&mut self.read[self.end..]);
        ready!(Pin::new(&mut self.inner).poll_read(cx, &mut space))?;
        let filled = space.filled().len();
        self.end += filled;
        Poll::Ready(Ok(filled > 0))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Tapped<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            match this.at {
                At::Header => {
                    if let Some((kind, length)) = this.header()? {
                        if kind == COPY_DATA && this.tapping {
                            this.start += HEADER;
                            this.at = At::Data(length + 1 - HEADER);
                        } else {
                            // The data before it comes first.
                            ready!(this.poll_hand_on(cx));
                            this.notice(kind);
                            this.at = At::Passing(length + 1);
                        }
                        continue;
                    }
                }
                At::Data(left) if left == 0 || this.start < this.end => {
                    this.collect(left);
                    if this.block.len() >= BLOCK_BYTES {
                        ready!(this.poll_hand_on(cx));
                    }
                    continue;
                }
                At::Passing(left) if this.start < this.end => {
                    this.pass(left, out);
                    return Poll::Ready(Ok(()));
                }
                At::Data(_) | At::Passing(_) => {}
            }
            if !ready!(this.poll_fill(cx))? {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

/// Who waits for data of a connection that has ended learns that none comes.
impl<S> Drop for Tapped<S> {
    fn drop(&mut self) {
        *self.tap.sink() = None;
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tapped<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Tapped { inner, startup, .. } = self.get_mut();
        startup.poll_write(Pin::new(inner), cx, data)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

impl<S: TlsStream + Unpin> TlsStream for Tapped<S> {
    fn channel_binding(&self) -> ChannelBinding {
        self.inner.channel_binding()
    }
}

/// TLS whose stream is tapped, inside.
pub struct TappedTls<T> {
    tls: T,
    tap: Tap,
}

impl<T> TappedTls<T> {
    /// The session's tap, on the stream that `tls` makes.
    pub fn new(tls: T, tap: Tap) -> Self {
        TappedTls { tls, tap }
    }
}

impl<S, T> TlsConnect<S> for TappedTls<T>
where
    T: TlsConnect<S>,
    T::Stream: Unpin,
    T::Future: Send + 'static,
{
    type Stream = Tapped<T::Stream>;
    type Error = T::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Stream, Self::Error>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        let connected = self.tls.connect(stream);
        let tap = self.tap;
        Box::pin(async move { Ok(Tapped::new(connected.await?, tap)) })
    }
}

#[cfg(test)]
#[path = "tap_tests.rs"]
mod tests;
