//! A sync that goes on, against services that keep everything in memory.

use std::time::Duration;

use proto::lsn::Lsn;

use super::capture::{bench, reads};
use super::fake::World;
use super::*;
use crate::config::source::UpdateMethod;

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

/// Has "a" lost; its load begins, and is held before its second chunk.
async fn lose_a(bench: &Bench) {
    {
        let mut world = bench.fake.world();
        world.held.insert(("a".into(), 1));
        world.write(&["a", "b"]);
        let untold = world.log.end - 11;
        world.log.untold.insert(untold);
    }
    until(bench, |world| world.staged.contains("L2/a/0")).await;
}

#[tokio::test]
async fn the_others_are_followed_while_a_table_is_loaded_anew() {
    let bench = bench(&[("a", 2), ("b", 1)]).await;
    let added = |world: &World| world.log.contents["b"].added.len();
    beside(&bench, async {
        caught_up(&bench).await;
        lose_a(&bench).await;
        let point = bench.fake.world().live["L2"].consistent_point.parse::<Lsn>().unwrap();
        let before = bench.fake.world().committed["a"].clone();
        for changes in 2..5 {
            bench.fake.world().write(&["b", "a"]);
            until(&bench, |world| added(world) == changes).await;
        }
        {
            let mut world = bench.fake.world();
            assert_eq!(world.committed["a"], before, "a is not loaded yet");
            assert!(world.log.confirmed <= point.0, "a lacks what comes after its load");
            world.held.clear();
        }
        caught_up(&bench).await;
    })
    .await
    .unwrap();
    bench.fake.world().assert_complete("after the end");
    assert_eq!(reads(&bench), ["a", "a", "b", "a", "a"]);
}

#[tokio::test]
async fn a_load_that_is_not_over_when_the_sync_is_to_end_is_given_up() {
    let bench = bench(&[("a", 2), ("b", 1)]).await;
    let summary = beside(&bench, async {
        caught_up(&bench).await;
        lose_a(&bench).await;
        bench.fake.world().write(&["b", "a"]);
    })
    .await
    .unwrap();
    assert_eq!(summary.given_up, ["public.a"]);
    assert_eq!(summary.outcomes.len(), 1, "b is complete");
    {
        let mut world = bench.fake.world();
        assert_eq!(world.log.contents["b"].added.len(), 2);
        assert!(world.log.confirmed >= world.log.end - 1, "b is acknowledged");
        assert!(world.live.is_empty(), "the load is closed");
        assert!(world.staged.contains("L2/a/0"), "it had begun");
        world.held.clear();
        world.write(&["a"]);
    }
    reads(&bench);
    bench.sync().await.unwrap();
    let world = bench.fake.world();
    world.assert_complete("after the next sync");
    assert!(!world.staged.iter().any(|manifest| manifest.starts_with("L2/")), "nothing is left");
    drop(world);
    assert_eq!(reads(&bench), ["a", "a"]);
}

#[tokio::test]
async fn a_table_that_is_lost_when_the_sync_is_to_end_is_loaded_if_that_is_soon_done() {
    let bench = bench(&[("a", 1), ("b", 1)]).await;
    let summary = beside(&bench, async {
        caught_up(&bench).await;
        let mut world = bench.fake.world();
        world.write(&["b", "a"]);
        let untold = world.log.end - 1;
        world.log.untold.insert(untold);
    })
    .await
    .unwrap();
    assert!(summary.given_up.is_empty(), "{:?}", summary.given_up);
    assert_eq!(reads(&bench), ["a", "b", "a"]);
    bench.fake.world().assert_complete("after the end");
    bench.fake.world().write(&["b", "a"]);
    bench.sync().await.unwrap();
    assert_eq!(reads(&bench), [""; 0]);
    bench.fake.world().assert_complete("after the next sync");
}

#[tokio::test]
async fn what_an_interrupted_run_had_staged_is_committed_before_others_are_loaded_beside() {
    let mut bench = bench(&[("a", 1), ("b", 1), ("c", 1)]).await;
    let later = bench.streams.drain(..2).collect::<Vec<_>>();
    bench.sync().await.unwrap();
    bench.streams.splice(0..0, later);
    {
        let mut world = bench.fake.world();
        world.refused = Some("a".into());
        world.held.insert(("b".into(), 0));
    }
    assert!(bench.sync().await.is_err(), "the commit of a fails");
    bench.fake.world().held.clear();
    reads(&bench);
    beside(&bench, async {
        bench.fake.world().write(&["a", "b", "c"]);
        caught_up(&bench).await;
        until(&bench, |world| world.committed.contains_key("b")).await;
    })
    .await
    .unwrap();
    bench.fake.world().assert_complete("after the end");
    assert_eq!(reads(&bench), ["b"], "a is not read again");
}

#[tokio::test]
async fn a_table_that_is_lost_while_another_is_loaded_is_loaded_by_a_sync_that_ends_as_well() {
    let mut bench = bench(&[("a", 1), ("b", 1), ("c", 1)]).await;
    bench.owns_source = true;
    let later = bench.streams.remove(0);
    bench.sync().await.unwrap();
    bench.streams.insert(0, later);
    let before = {
        let mut world = bench.fake.world();
        world.held.insert(("a".into(), 0));
        world.write(&["b", "c"]);
        let untold = world.log.end - 11;
        world.log.untold.insert(untold);
        world.log.replicates
    };
    reads(&bench);
    let lost = async {
        // It was lost in the first of them.
        until(&bench, |world| world.log.replicates >= before + 2).await;
        bench.fake.world().held.clear();
    };
    let (summary, ()) = tokio::join!(bench.sync(), lost);
    assert!(summary.unwrap().given_up.is_empty());
    bench.fake.world().assert_complete("after the sync");
    assert_eq!(reads(&bench), ["a", "b"]);
}
