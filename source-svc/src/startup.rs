//! The startup packet of a walsender: tokio-postgres has no word for it, so the
//! parameter is added as the packet passes.
//!
//! ```text
//! i32 length · i32 protocol · { name\0 value\0 }* · \0     (src/backend/tcop/backend_startup.c)
//! ```

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

/// Protocol 3.0, the only one that tokio-postgres speaks.
const PROTOCOL: [u8; 4] = [0, 3, 0, 0];
/// A walsender of the database that the packet names.
const PARAMETER: &[u8] = b"replication\0database\0";

/// Where the packet is, which is the first thing written to a stream.
pub enum Startup {
    /// It is still to be written.
    ToCome,
    /// It is changed, and written as far as `written`.
    Passing { packet: Vec<u8>, written: usize },
    /// Everything passes unchanged.
    Sent,
}

impl Startup {
    /// Writes `data`, the packet changed.
    pub fn poll_write(
        &mut self,
        mut inner: Pin<&mut impl AsyncWrite>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            match self {
                Startup::Sent => return inner.poll_write(cx, data),
                Startup::ToCome => {
                    *self = Startup::Passing { packet: of_walsender(data)?, written: 0 };
                }
                Startup::Passing { packet, written } if *written < packet.len() => {
                    match ready!(inner.as_mut().poll_write(cx, &packet[*written..]))? {
                        0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                        more => *written += more,
                    }
                }
                Startup::Passing { .. } => {
                    *self = Startup::Sent;
                    return Poll::Ready(Ok(data.len()));
                }
            }
        }
    }
}

/// The packet with one more parameter.
fn of_walsender(packet: &[u8]) -> io::Result<Vec<u8>> {
    let length = packet.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes) as usize);
    let whole = length == Some(packet.len()) && packet.get(4..8) == Some(&PROTOCOL);
    let ([start @ .., 0], true) = (packet, whole) else {
        let what = "the startup packet is not what it was expected to be";
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    };
    let mut changed = start.to_vec();
    changed.extend_from_slice(PARAMETER);
    changed.push(0);
    let length = u32::try_from(changed.len()).unwrap_or(u32::MAX);
    changed[..4].copy_from_slice(&length.to_be_bytes());
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[test]
    fn a_startup_packet_gains_one_parameter() {
        let packet = b"\0\0\0\x13\0\x03\0\0user\0me\0a\0\0";
        let mut packet = packet.to_vec();
        packet[3] = packet.len() as u8;
        let changed = of_walsender(&packet).unwrap();
        assert_eq!(usize::from(changed[3]), changed.len());
        assert!(changed.ends_with(b"a\0replication\0database\0\0"));
        for broken in [&packet[1..], &packet[..9], b"", b"\0\0\0\x08\x04\xd2\x16\x2f"] {
            assert!(of_walsender(broken).is_err());
        }
    }

    #[tokio::test]
    async fn what_follows_the_startup_packet_passes_unchanged() {
        struct Sender<W>(W, Startup);
        impl<W: AsyncWrite + Unpin> AsyncWrite for Sender<W> {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                data: &[u8],
            ) -> Poll<io::Result<usize>> {
                let Sender(inner, startup) = self.get_mut();
                startup.poll_write(Pin::new(inner), cx, data)
            }
            fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.0).poll_flush(cx)
            }
            fn poll_shutdown(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
            ) -> Poll<io::Result<()>> {
                Pin::new(&mut self.0).poll_shutdown(cx)
            }
        }
        // So narrow that the packet takes several writes.
        let (narrow, mut far) = tokio::io::duplex(5);
        let read = tokio::spawn(async move {
            let mut read = Vec::new();
            tokio::io::AsyncReadExt::read_to_end(&mut far, &mut read).await.unwrap();
            read
        });
        let mut sender = Sender(narrow, Startup::ToCome);
        let packet = [&[0, 0, 0, 12][..], &PROTOCOL, b"a\0b\0"[..3].as_ref(), b"\0"].concat();
        sender.write_all(&packet).await.unwrap();
        sender.write_all(b"query").await.unwrap();
        drop(sender);
        let expected = [of_walsender(&packet).unwrap(), b"query".to_vec()].concat();
        assert_eq!(read.await.unwrap(), expected);
    }
}
