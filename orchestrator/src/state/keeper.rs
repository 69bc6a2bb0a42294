//! Keeps the state of the running sync: changes it in memory, saves it at a
//! bounded rate.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proto::Fault;
use proto::v1::ErrorCode;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::State;
use super::file::StateFile;

/// Least time between two saves that nobody waits for.
const SAVE_INTERVAL: Duration = Duration::from_millis(200);

/// The state and its file. A change is in the file after the next
/// [`StateKeeper::save`], which callers do where durability matters (a load
/// opened, a table committed, the end) and else when [`StateKeeper::due`].
pub struct StateKeeper {
    file: Arc<StateFile>,
    state: State,
    saved_at: Option<Instant>,
    dirty: bool,
    /// A write that goes on although nobody waited for its end: the next one
    /// must not overtake it.
    writing: Option<JoinHandle<Result<(), Fault>>>,
}

impl StateKeeper {
    /// Takes the locked file and what it held.
    pub fn new(file: StateFile, state: State) -> Self {
        StateKeeper { file: Arc::new(file), state, saved_at: None, dirty: false, writing: None }
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The state as changed so far.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The state, to be changed.
    pub fn change(&mut self) -> &mut State {
        self.dirty = true;
        &mut self.state
    }

    /// When the pending change should be saved; `None`: nothing is pending.
    pub fn due(&self) -> Option<Instant> {
        let now = Instant::now;
        self.dirty.then(|| self.saved_at.map_or_else(now, |saved| saved + SAVE_INTERVAL))
    }

    /// Saves what has changed. When the caller is dropped, the write goes on
    /// and the next call waits for it first.
    pub async fn save(&mut self) -> Result<(), Fault> {
        self.written().await?;
        if !self.dirty {
            return Ok(());
        }
        let (file, text) = (self.file.clone(), self.state.to_text());
        self.writing = Some(tokio::task::spawn_blocking(move || file.write(&text)));
        self.written().await?;
        self.dirty = false;
        self.saved_at = Some(Instant::now());
        Ok(())
    }

    async fn written(&mut self) -> Result<(), Fault> {
        let Some(writing) = &mut self.writing else { return Ok(()) };
        let written = writing.await;
        self.writing = None;
        written.unwrap_or_else(|panic| {
            Err(Fault::new(ErrorCode::Internal, format!("saving the state: {panic}")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_is_due_at_once_and_then_at_a_bounded_rate() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        let (file, state) = StateFile::open(&path, true).unwrap();
        let mut keeper = StateKeeper::new(file, state);
        assert_eq!(keeper.due(), None);
        keeper.change().set_consistent_point("0/1");
        assert!(keeper.due().unwrap() <= Instant::now());
        keeper.save().await.unwrap();
        assert_eq!(keeper.due(), None);
        let saved = Instant::now();
        keeper.change().set_consistent_point("0/2");
        assert!(keeper.due().unwrap() > saved, "the next save is held back");
        assert!(std::fs::read_to_string(&path).unwrap().contains("0/1"));
    }

    #[tokio::test]
    async fn a_save_that_was_dropped_does_not_overtake_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        let (file, state) = StateFile::open(&path, true).unwrap();
        let mut keeper = StateKeeper::new(file, state);
        for turn in 0..50 {
            keeper.change().set_consistent_point(&format!("0/{turn}"));
            // Polled once and dropped: the write is under way.
            let _ = futures::poll!(std::pin::pin!(keeper.save()));
        }
        keeper.change().set_consistent_point("0/ABC");
        keeper.save().await.unwrap();
        assert!(std::fs::read_to_string(&path).unwrap().contains("0/ABC"));
    }
}
