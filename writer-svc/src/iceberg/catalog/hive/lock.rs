//! The lock of one table, as Java's HiveCatalog and PyIceberg take it.
//!
//! ```text
//! lock ─► acquired? ──no──► check_lock, until it is or time is up ─► unlock
//!           │ yes            heartbeats beside, on a connection of their own
//!           └─► what is to be done under it ─► unlock, always
//! ```
//!
//! A lock whose holder was killed ends by itself, when the metastore has had no
//! heartbeat for its `metastore.txn.timeout` (5 minutes).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::client::{Address, Connection, Exception, Function, Refused};
use super::thrift::Value;
use crate::iceberg::catalog::TableName;

/// How long to wait for a lock that another holds.
const PATIENCE: Duration = Duration::from_secs(20);
/// First wait before the next look; doubled for each further one.
const FIRST_WAIT: Duration = Duration::from_millis(20);
/// Longest of them.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// Between heartbeats. No metastore is set to forget a lock sooner.
const HEARTBEAT: Duration = Duration::from_secs(2);

const LOCK: Function = Function("lock", &[Exception::Invalid, Exception::Invalid]);
const CHECK: Function =
    Function("check_lock", &[Exception::Invalid, Exception::Invalid, Exception::NoSuchLock]);
const UNLOCK: Function = Function("unlock", &[Exception::NoSuchLock, Exception::Invalid]);
const BEAT: Function =
    Function("heartbeat", &[Exception::NoSuchLock, Exception::Invalid, Exception::Invalid]);

const EXCLUSIVE: i32 = 3;
const OF_A_TABLE: i32 = 2;
const ACQUIRED: i32 = 1;
const WAITING: i32 = 2;

/// A lock that is held. Given back when dropped.
pub struct Lock<'a> {
    address: &'a Address,
    id: i64,
    lost: Arc<AtomicBool>,
    stop: Option<Sender<()>>,
    beating: Option<JoinHandle<()>>,
}

/// Why there is no lock.
pub enum NoLock {
    /// Another has it, and keeps it.
    Held,
    /// It was not to be had.
    Refused(Refused),
}

impl From<Refused> for NoLock {
    fn from(refused: Refused) -> Self {
        NoLock::Refused(refused)
    }
}

impl<'a> Lock<'a> {
    /// Waits for the lock of a table, for some time.
    pub fn take(
        address: &'a Address,
        connection: &mut Connection,
        table: &TableName,
    ) -> Result<Self, NoLock> {
        let component = Value::fields([
            (1, Value::Int(EXCLUSIVE)),
            (2, Value::Int(OF_A_TABLE)),
            (3, Value::text(&table.namespace)),
            (4, Value::text(&table.name)),
        ]);
        // For `SHOW LOCKS`.
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let request = Value::fields([
            (1, Value::List(thrift::protocol::TType::Struct, vec![component])),
            (3, Value::text("tidewater")),
            (4, Value::text(host.trim())),
            (5, Value::text(format!("tidewater {}", proto::VERSION))),
        ]);
        let (id, mut state) = response(connection.call(LOCK, [(1, request)])?);
        // From here on it is given back whatever happens, waited for or held.
        let mut lock = Lock { address, id, lost: Arc::default(), stop: None, beating: None };
        lock.beat();
        let (began, mut wait) = (Instant::now(), FIRST_WAIT);
        while state == WAITING {
            if began.elapsed() > PATIENCE {
                return Err(NoLock::Held);
            }
            std::thread::sleep(wait);
            wait = (wait * 2).min(LONGEST_WAIT);
            let request = Value::fields([(1, Value::Long(id))]);
            (_, state) = response(connection.call(CHECK, [(1, request)])?);
        }
        if state == ACQUIRED { Ok(lock) } else { Err(NoLock::Held) }
    }

    /// Whether the metastore still knows it, as far as heard.
    pub fn is_held(&self) -> bool {
        !self.lost.load(Ordering::Acquire)
    }

    fn beat(&mut self) {
        let (stop, stopped) = channel();
        let (address, id, lost) = (self.address.clone(), self.id, Arc::clone(&self.lost));
        let run = move || {
            let mut connection = None;
            while stopped.recv_timeout(HEARTBEAT) == Err(RecvTimeoutError::Timeout) {
                match heartbeat(&address, &mut connection, id) {
                    Ok(()) => {}
                    Err(refused) if refused.exception() == Some(Exception::NoSuchLock) => {
                        return lost.store(true, Ordering::Release);
                    }
                    // The next one may get through.
                    Err(refused) => {
                        tracing::warn!("a heartbeat of a lock in the metastore: {refused}");
                        connection = None;
                    }
                }
            }
        };
        self.stop = Some(stop);
        self.beating = Some(std::thread::spawn(run));
    }
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(beating) = self.beating.take() {
            let _ = beating.join();
        }
        // Not on the connection of the commit, which may have broken.
        let request = Value::fields([(1, Value::Long(self.id))]);
        let given_back =
            self.address.connect().and_then(|mut it| it.call(UNLOCK, [(1, request)]).map(drop));
        match given_back {
            Err(refused) if refused.exception() != Some(Exception::NoSuchLock) => {
                tracing::warn!(
                    "a lock in the metastore could not be given back and ends by itself, in five \
                     minutes unless it is set otherwise: {refused}"
                );
            }
            _ => {}
        }
    }
}

fn heartbeat(
    address: &Address,
    connection: &mut Option<Connection>,
    lock: i64,
) -> Result<(), Refused> {
    let mut open = match connection.take() {
        Some(open) => open,
        None => address.connect()?,
    };
    open.call(BEAT, [(1, Value::fields([(1, Value::Long(lock))]))])?;
    *connection = Some(open);
    Ok(())
}

/// Id and state.
fn response(answer: Option<Value>) -> (i64, i32) {
    let Some(Value::Struct(fields)) = answer else { return (0, 0) };
    let id = if let Some(Value::Long(id)) = fields.get(&1) { *id } else { 0 };
    let state = if let Some(Value::Int(state)) = fields.get(&2) { *state } else { 0 };
    (id, state)
}
