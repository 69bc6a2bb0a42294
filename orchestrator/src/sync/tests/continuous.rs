//! A sync that goes on, against services that keep everything in memory.

use std::time::Duration;

use super::capture::{bench, reads};
use super::fake::World;
use super::*;

/// Runs `work` beside a sync that goes on, then asks that to end.
async fn beside(bench: &Bench, work: impl Future<Output = ()>) -> Result<Summary, Stop> {
    let ending = CancellationToken::new();
    let continuous = Continuous::new(&UpdateMethod::default(), ending.clone());
    let worked = async {
        work.await;
        ending.cancel();
    };
    tokio::join!(bench.sync_on(Some(continuous)), worked).0
}

/// Waits until everything that was written is confirmed.
async fn caught_up(bench: &Bench) {
    until(bench, |world| world.log.confirmed >= world.log.end).await;
}

async fn until(bench: &Bench, holds: impl Fn(&World) -> bool) {
    let wait = async {
        while !holds(&bench.fake.world()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.expect("it comes to that");
}

#[tokio::test]
async fn changes_are_committed_and_confirmed_until_it_is_asked_to_end() {
    let bench = bench(&[("a", 2), ("b", 1)]).await;
    let summary = beside(&bench, async {
        caught_up(&bench).await;
        for _ in 0..5 {
            bench.fake.world().write(&["a", "b", "a", "a", "b"]);
            caught_up(&bench).await;
        }
        // These come with the last look.
        bench.fake.world().write(&["b", "a"]);
    })
    .await
    .unwrap();
    assert_eq!(summary.outcomes.len(), 2);
    {
        let world = bench.fake.world();
        // What is no transaction may come with the next start.
        assert!(world.log.confirmed + 1 >= world.log.end);
        world.assert_complete("after the end");
    }
    assert_eq!(reads(&bench), ["a", "a", "b"]);
    bench.fake.world().write(&["a"]);
    bench.sync().await.unwrap();
    bench.fake.world().assert_complete("after the next sync");
    assert_eq!(reads(&bench), [""; 0]);
}

#[tokio::test]
async fn a_table_that_is_lost_is_loaded_in_the_same_run() {
    let bench = bench(&[("a", 1), ("b", 1)]).await;
    beside(&bench, async {
        for loads in 3..=4 {
            caught_up(&bench).await;
            {
                let mut world = bench.fake.world();
                world.write(&["a", "b"]);
                let untold = world.log.end - 11;
                world.log.untold.insert(untold);
            }
            until(&bench, |world| world.reads.len() == loads).await;
        }
        caught_up(&bench).await;
    })
    .await
    .unwrap();
    bench.fake.world().assert_complete("after the end");
    assert_eq!(reads(&bench), ["a", "b", "a", "a"]);
}
