//! The writers of a run: which of them takes the next piece of work, which have
//! come or gone.
//!
//! Any writer can take any chunk, and commit what another has staged. So each
//! piece goes to the one with the least in flight, in turn among equals; one that
//! has failed is left alone for a while where there is another. Of a name that
//! stands for several (`dns://`), those that appear later are used at once, and
//! those that disappear no more.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use proto::dial::Connection;
use proto::v1::writer_client::WriterClient;
use proto::{Fault, Token};

/// How long another writer is preferred to one that has failed; it doubles with each
/// further failure …
const PENANCE: Duration = Duration::from_secs(5);
/// … up to this.
const LONGEST_PENANCE: Duration = Duration::from_secs(80);

/// A writer that tables can be given to.
#[derive(Clone)]
pub struct Writer {
    /// As [`proto::address`] has it: how the source must dial it.
    pub address: String,
    /// What the source must present to it.
    pub token: Option<Token>,
    /// Whether it was found behind a name, which may lose it.
    pub is_behind_name: bool,
    /// For our own calls.
    pub client: WriterClient<Connection>,
}

/// All writers of a run; clones are the same pool.
#[derive(Clone)]
pub struct Writers(Arc<Mutex<Pool>>);

struct Pool {
    members: Vec<Member>,
    next: usize,
}

struct Member {
    writer: Writer,
    in_flight: usize,
    /// Its name does not stand for it any more.
    gone: bool,
    failed: Option<Instant>,
    /// Since it has last done well.
    failures: u32,
}

/// A writer in use; dropping it gives it back.
pub struct Assigned {
    index: usize,
    writer: Writer,
    writers: Writers,
    has_failed: bool,
}

/// How long one that has failed so often in a row is left alone.
fn penance(failures: u32) -> Duration {
    PENANCE.saturating_mul(1 << failures.saturating_sub(1).min(8)).min(LONGEST_PENANCE)
}

impl Writers {
    /// Those that are known from the start.
    pub fn new(writers: impl IntoIterator<Item = Writer>) -> Self {
        let members = writers.into_iter().map(Member::new).collect();
        Writers(Arc::new(Mutex::new(Pool { members, next: 0 })))
    }

    fn locked(&self) -> MutexGuard<'_, Pool> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Each of them.
    pub fn all(&self) -> Vec<Writer> {
        self.locked().members.iter().map(|member| member.writer.clone()).collect()
    }

    /// Takes one; a run that needs writers has at least one.
    pub fn take(&self) -> Assigned {
        let mut pool = self.locked();
        let count = pool.members.len();
        let turn = (0..count).map(|step| (pool.next + step) % count);
        let index = turn
            .min_by_key(|&index| pool.members[index].reluctance())
            .expect("the command asked for writers when it started the services");
        pool.members[index].in_flight += 1;
        pool.next = (index + 1) % count;
        let writer = pool.members[index].writer.clone();
        Assigned { index, writer, writers: self.clone(), has_failed: false }
    }

    /// Addresses that `found` has and the pool does not. Those behind a name that
    /// are not in `found` are not taken any more, unless there is no other.
    pub fn update(&self, found: &[String]) -> Vec<String> {
        let mut pool = self.locked();
        for member in pool.members.iter_mut().filter(|member| member.writer.is_behind_name) {
            member.gone = !found.contains(&member.writer.address);
        }
        let known = |address: &String| pool.members.iter().any(|m| m.writer.address == *address);
        found.iter().filter(|address| !known(address)).cloned().collect()
    }

    /// One more.
    pub fn add(&self, writer: Writer) {
        self.locked().members.push(Member::new(writer));
    }
}

impl Member {
    fn new(writer: Writer) -> Self {
        Member { writer, in_flight: 0, gone: false, failed: None, failures: 0 }
    }

    /// The smaller, the sooner it is taken.
    fn reluctance(&self) -> (bool, bool, usize) {
        (self.gone, self.does_penance(), self.in_flight)
    }

    fn does_penance(&self) -> bool {
        self.failed.is_some_and(|failed| failed.elapsed() < penance(self.failures))
    }

    /// All that it had fails at once: that counts once.
    fn fail(&mut self) {
        if !self.does_penance() {
            self.failures += 1;
        }
        self.failed = Some(Instant::now());
    }
}

impl Assigned {
    /// The writer.
    pub fn writer(&self) -> &Writer {
        &self.writer
    }

    /// Gives it back: what it was given has failed, by its fault or not.
    pub fn failed(mut self) {
        self.has_failed = true;
    }

    /// Gives it back after a fault, which may be another's.
    pub fn blame(self, fault: &Fault) {
        if fault.writer == self.writer.address {
            self.failed();
        }
    }
}

impl Drop for Assigned {
    fn drop(&mut self) {
        let member = &mut self.writers.locked().members[self.index];
        member.in_flight -= 1;
        match self.has_failed {
            true => member.fail(),
            false => member.failures = 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::token::AttachToken;
    use proto::v1::ErrorCode;
    use tonic::service::interceptor::InterceptedService;
    use tonic::transport::Endpoint;

    use super::*;

    fn writer(address: &str) -> Writer {
        let channel = Endpoint::from_static("http://h").connect_lazy();
        let connection = InterceptedService::new(channel, AttachToken::new(None));
        Writer {
            address: address.to_owned(),
            token: None,
            is_behind_name: address.starts_with("10."),
            client: WriterClient::new(connection),
        }
    }

    fn pool(addresses: &[&str]) -> Writers {
        Writers::new(addresses.iter().map(|address| writer(address)))
    }

    fn address(assigned: &Assigned) -> String {
        assigned.writer().address.clone()
    }

    #[tokio::test]
    async fn writers_take_turns_and_the_idle_one_is_preferred() {
        let writers = pool(&["a", "b", "c"]);
        let mut taken: Vec<_> = (0..6).map(|_| writers.take()).collect();
        let order: String = taken.iter().map(address).collect();
        assert_eq!(order, "abcabc");
        taken.remove(4);
        assert_eq!(address(&writers.take()), "b");
    }

    #[tokio::test]
    async fn one_that_failed_is_avoided_if_there_is_another() {
        let writers = pool(&["a", "b"]);
        let _busy: Vec<_> = (0..3).map(|_| writers.take()).collect();
        let failing = writers.take();
        assert_eq!(address(&failing), "b");
        failing.failed();
        assert_eq!(address(&writers.take()), "a");
        let single = pool(&["a"]);
        single.take().failed();
        assert_eq!(address(&single.take()), "a");
    }

    #[tokio::test]
    async fn only_the_writer_that_a_fault_names_is_to_blame() {
        let writers = pool(&["http://host:5005", "http://host:50051"]);
        let words = "the writer at http://host:50051: connection refused";
        let fault = Fault::new(ErrorCode::Unavailable, words);
        let failures = || -> Vec<u32> {
            writers.locked().members.iter().map(|member| member.failures).collect()
        };
        for (fault, expected) in
            [(fault.clone(), [0, 0]), (fault.at_writer("http://host:50051"), [0, 1])]
        {
            let both = [writers.take(), writers.take()];
            both.into_iter().for_each(|assigned| assigned.blame(&fault));
            assert_eq!(failures(), expected);
        }
    }

    #[test]
    fn one_that_fails_again_and_again_is_avoided_for_longer() {
        let seconds: Vec<_> = (1..7).map(|failures| penance(failures).as_secs()).collect();
        assert_eq!(seconds, [5, 10, 20, 40, 80, 80]);
    }

    #[tokio::test]
    async fn what_fails_at_once_counts_once_and_success_ends_it() {
        let writers = pool(&["a"]);
        let failures = |writers: &Writers| writers.locked().members[0].failures;
        let taken: Vec<_> = (0..4).map(|_| writers.take()).collect();
        taken.into_iter().for_each(Assigned::failed);
        assert_eq!(failures(&writers), 1);
        drop(writers.take());
        assert_eq!(failures(&writers), 0);
    }

    #[tokio::test]
    async fn those_that_a_name_gains_and_loses_are_followed() {
        let writers = pool(&["10.0.0.1:5", "fixed:5"]);
        let found = ["10.0.0.2:5".to_owned()];
        assert_eq!(writers.update(&found), found);
        writers.add(writer("10.0.0.2:5"));
        assert!(writers.update(&found).is_empty());
        let taken: Vec<_> = (0..4).map(|_| writers.take()).collect();
        assert!(taken.iter().all(|taken| address(taken) != "10.0.0.1:5"));
        // What cannot be looked up any more may still answer.
        let alone = pool(&["10.0.0.1:5"]);
        assert!(alone.update(&[]).is_empty());
        assert_eq!(address(&alone.take()), "10.0.0.1:5");
    }
}
