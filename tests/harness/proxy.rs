//! A TCP proxy that makes one chosen request go wrong.
//!
//! ```text
//! let proxy = Proxy::start(&upstream)?;          // the client gets proxy.address()
//! let commit = proxy.once("AWSGlue.UpdateTable", Fault::LoseAnswer)?;
//! …                                              // the client runs into it
//! commit.met()?;                                 // done by the server, unknown to the client
//! ```
//!
//! A request is chosen by text that its bytes contain, so there is no TLS. Over
//! PostgreSQL's protocol a prepared statement's text is answered before it
//! runs: choose `COMMIT`.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// No request is waited for, or held, longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// What happens to the chosen request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The server does it; its answer never arrives, the connection ends.
    LoseAnswer,
    /// The same, and the server is down from then on for those who come this way.
    Vanish,
    /// It never arrives; the connection ends.
    LoseRequest,
    /// It waits for [`Armed::release`].
    Hold,
}

/// A running proxy. Ends, with its connections, when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: String,
    shared: Arc<Shared>,
}

/// A fault that waits for its request; the request goes through unharmed once
/// this is dropped.
#[derive(Debug)]
pub struct Armed {
    id: usize,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    upstream: String,
    down: AtomicBool,
    /// Connections that came while it was down.
    refused: AtomicUsize,
    ended: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<Rule>,
    connections: Vec<TcpStream>,
}

#[derive(Debug)]
struct Rule {
    needle: Vec<u8>,
    fault: Fault,
    stage: Stage,
}

/// How far a rule has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// No request has matched.
    Armed,
    /// One has; its answer is awaited.
    Matched,
    /// The fault has happened: the request was dropped, is held, or its answer
    /// was dropped.
    Met,
    /// Nothing more happens to anybody.
    Over,
}

impl Proxy {
    /// Starts one before `upstream`, "host:port".
    pub fn start(upstream: &str) -> Result<Proxy> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?.to_string();
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            down: AtomicBool::new(false),
            refused: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let accepting = shared.clone();
        std::thread::spawn(move || accept(&listener, &accepting));
        Ok(Proxy { address, shared })
    }

    /// Where clients connect, "127.0.0.1:port".
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Does `fault` to the next request that contains `needle`, and to no other.
    pub fn once(&self, needle: &str, fault: Fault) -> Armed {
        let mut state = self.shared.state();
        let needle = needle.as_bytes().to_vec();
        state.rules.push(Rule { needle, fault, stage: Stage::Armed });
        Armed { id: state.rules.len() - 1, shared: self.shared.clone() }
    }

    /// From now on, the server is down, or up again, for those who come this
    /// way; connections that are open end.
    pub fn down(&self, down: bool) {
        self.shared.down.store(down, Ordering::SeqCst);
        if down {
            self.shared.cut();
        }
    }

    /// The server is down until so many connections have come in vain.
    pub fn down_for(&self, connections: usize) -> Result<()> {
        let before = self.shared.refused.load(Ordering::SeqCst);
        self.down(true);
        let started = Instant::now();
        while self.shared.refused.load(Ordering::SeqCst) < before + connections {
            if started.elapsed() > PATIENCE {
                bail!("waited {PATIENCE:?} in vain for {connections} connections");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.down(false);
        Ok(())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.shared.changed.notify_all();
        self.shared.cut();
        // Wakes the accepting thread.
        let _ = TcpStream::connect(&self.address);
    }
}

impl Armed {
    /// Waits until the fault has happened.
    pub fn met(&self) -> Result<()> {
        self.shared.wait(self.id, Stage::Met)
    }

    /// Whether the fault has happened.
    pub fn is_met(&self) -> bool {
        self.shared.state().rules[self.id].stage >= Stage::Met
    }

    /// Lets a held request go on.
    pub fn release(self) {}
}

impl Drop for Armed {
    fn drop(&mut self) {
        self.shared.set(self.id, Stage::Over);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A thread that panicked leaves the list usable.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn set(&self, id: usize, stage: Stage) {
        let mut state = self.state();
        let rule = &mut state.rules[id];
        rule.stage = rule.stage.max(stage);
        self.changed.notify_all();
    }

    fn wait(&self, id: usize, stage: Stage) -> Result<()> {
        let started = Instant::now();
        let mut state = self.state();
        while state.rules[id].stage < stage && !self.ended.load(Ordering::SeqCst) {
            let Some(left) = PATIENCE.checked_sub(started.elapsed()) else {
                let needle = String::from_utf8_lossy(&state.rules[id].needle).into_owned();
                bail!("waited {PATIENCE:?} in vain for a request with {needle:?}");
            };
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        }
        Ok(())
    }

    /// The rule that these bytes set off.
    fn matched(&self, bytes: &[u8]) -> Option<(usize, Fault)> {
        let mut state = self.state();
        let (id, rule) = state
            .rules
            .iter_mut()
            .enumerate()
            .find(|(_, rule)| rule.stage == Stage::Armed && contains(bytes, &rule.needle))?;
        rule.stage = Stage::Matched;
        Some((id, rule.fault))
    }

    fn longest_needle(&self) -> usize {
        self.state().rules.iter().map(|rule| rule.needle.len()).max().unwrap_or(0)
    }

    /// An answer has come that is to be lost.
    fn lose(&self, id: usize) {
        let fault = self.state().rules[id].fault;
        if fault == Fault::Vanish {
            self.down.store(true, Ordering::SeqCst);
        }
        self.set(id, Stage::Met);
        if fault == Fault::Vanish {
            self.cut();
        }
    }

    fn cut(&self) {
        for connection in self.state().connections.drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming().map_while(std::io::Result::ok) {
        if shared.ended.load(Ordering::SeqCst) {
            return;
        }
        if shared.down.load(Ordering::SeqCst) {
            shared.refused.fetch_add(1, Ordering::SeqCst);
            continue;
        }
        // A client or server that is gone ends its own connection only.
        let _ = serve(client, shared);
    }
}

fn serve(client: TcpStream, shared: &Arc<Shared>) -> Result<()> {
    let server = TcpStream::connect(&shared.upstream)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let lost = Arc::new(Mutex::new(None));
    let (to_client, from_server) = (client.try_clone()?, server.try_clone()?);
    shared.state().connections.extend([client.try_clone()?, server.try_clone()?]);
    let (rules, losing) = (shared.clone(), lost.clone());
    std::thread::spawn(move || {
        let _ = requests(&client, &server, &rules, &losing);
        end(&client, &server);
    });
    let rules = shared.clone();
    std::thread::spawn(move || {
        let _ = answers(&from_server, &to_client, &rules, &lost);
        end(&to_client, &from_server);
    });
    Ok(())
}

fn end(client: &TcpStream, server: &TcpStream) {
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
}

/// Passes bytes to the server until the connection, or a fault, ends it.
fn requests(
    mut client: &TcpStream,
    mut server: &TcpStream,
    shared: &Shared,
    lost: &Mutex<Option<usize>>,
) -> Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    // The end of what went before: a needle may lie across two reads.
    let mut seen = Vec::new();
    loop {
        let length = client.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        seen.extend_from_slice(&buffer[..length]);
        if let Some((id, fault)) = shared.matched(&seen) {
            match fault {
                Fault::LoseRequest => {
                    shared.set(id, Stage::Met);
                    return Ok(());
                }
                Fault::LoseAnswer | Fault::Vanish => {
                    *lost.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(id);
                }
                Fault::Hold => {
                    shared.set(id, Stage::Met);
                    shared.wait(id, Stage::Over)?;
                }
            }
            seen.clear();
        }
        let kept = shared.longest_needle().saturating_sub(1).min(seen.len());
        seen.drain(..seen.len() - kept);
        server.write_all(&buffer[..length])?;
    }
}

/// Passes bytes to the client, but not the answer that is to be lost.
fn answers(
    mut server: &TcpStream,
    mut client: &TcpStream,
    shared: &Shared,
    lost: &Mutex<Option<usize>>,
) -> Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = server.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        let losing = *lost.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // "Go on sending" is no answer.
        if let Some(id) = losing
            && !buffer[..length].starts_with(b"HTTP/1.1 100")
        {
            shared.lose(id);
            return Ok(());
        }
        client.write_all(&buffer[..length])?;
    }
}
