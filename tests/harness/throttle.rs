//! A slow way to a server: what goes in is held to so many bytes a second, over all
//! connections together; what comes back is not.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;

/// Bytes that go on at once.
const PIECE: usize = 64 << 10;

/// A running proxy. Takes no connections any more when dropped.
#[derive(Debug)]
pub struct Throttle {
    address: String,
    ended: Arc<AtomicBool>,
}

/// When the next byte may go.
#[derive(Debug)]
struct Pace {
    bytes_per_second: f64,
    next: Mutex<Instant>,
}

impl Throttle {
    /// Starts one before `upstream`, "host:port".
    pub fn start(upstream: &str, bytes_per_second: f64) -> Result<Throttle> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?.to_string();
        let ended = Arc::new(AtomicBool::new(false));
        let pace = Arc::new(Pace { bytes_per_second, next: Mutex::new(Instant::now()) });
        let (stop, upstream) = (ended.clone(), upstream.to_owned());
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(std::io::Result::ok) {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                // A server that is gone ends this connection only.
                let _ = serve(client, &upstream, &pace);
            }
        });
        Ok(Throttle { address, ended })
    }

    /// Where clients connect, "127.0.0.1:port".
    pub fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // Wakes the accepting thread.
        let _ = TcpStream::connect(&self.address);
    }
}

impl Pace {
    /// Waits until so many bytes may go.
    fn wait(&self, bytes: usize) {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let turn = (*next).max(now);
        *next = turn + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second);
        drop(next);
        std::thread::sleep(turn - now);
    }
}

fn serve(client: TcpStream, upstream: &str, pace: &Arc<Pace>) -> Result<()> {
    let server = TcpStream::connect(upstream)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (back, answers) = (client.try_clone()?, server.try_clone()?);
    let pace = pace.clone();
    std::thread::spawn(move || copy(client, server, |bytes| pace.wait(bytes)));
    std::thread::spawn(move || copy(answers, back, |_| {}));
    Ok(())
}

fn copy(mut from: TcpStream, mut to: TcpStream, before: impl Fn(usize)) {
    let mut piece = vec![0; PIECE];
    while let Ok(bytes @ 1..) = from.read(&mut piece) {
        before(bytes);
        if to.write_all(&piece[..bytes]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}
