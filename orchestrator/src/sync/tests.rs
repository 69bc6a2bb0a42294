//! Whole syncs against services that keep everything in memory: what is read,
//! staged, committed and saved when things go wrong. No record is moved.

use std::collections::HashSet;

use proto::v1::*;

use super::*;

mod capture;
mod continuous;
mod fake;
mod trouble;

use fake::Bench;

#[tokio::test]
async fn a_sync_reads_everything_once_and_the_next_one_again() {
    let bench = Bench::new(&[("a", 3), ("b", 1)]).await;
    let summary = bench.sync().await.unwrap();
    assert_eq!(summary.outcomes.iter().map(|o| o.rows).collect::<Vec<_>>(), [30, 10]);
    assert_eq!(summary.outcomes[0].unrepresentable["d"], 3);
    let state = bench.state();
    assert_eq!(state.run.unwrap().status, RunStatus::Finished);
    assert!(state.streams.iter().all(|s| s.state.chunks == Some(vec![]) && s.state.load.is_none()));
    assert_eq!(bench.fake.world().reads.len(), 4);
    assert!(bench.fake.world().live.is_empty(), "the load is closed");
    bench.sync().await.unwrap();
    assert_eq!(bench.fake.world().reads.len(), 8);
    let commits: HashSet<_> =
        bench.fake.world().commits.iter().map(|c| c.commit_id.clone()).collect();
    assert_eq!(commits.len(), 4, "a commit id is used once per run and table");
}

#[tokio::test]
async fn a_transient_fault_is_tried_again_and_a_definite_one_ends_the_sync() {
    let bench = Bench::new(&[("a", 2), ("b", 2)]).await;
    let passing = Fault::new(ErrorCode::Unavailable, "try later");
    let definite = Fault::new(ErrorCode::DestinationFull, "no space left").remedy("free some");
    bench.fake.world().read_faults.insert(("a".into(), 1), vec![passing]);
    bench.fake.world().read_faults.insert(("b".into(), 1), vec![definite.clone()]);
    let Err(Stop::Failed(fault)) = bench.sync().await else { panic!("the disk is full") };
    assert_eq!((fault.code, fault.remedy), (definite.code, definite.remedy));
    assert_eq!(fault.message, "reading public.b: no space left");
    assert!(bench.fake.world().committed.contains_key("a"), "what was complete is committed");
    assert!(bench.fake.world().live.is_empty(), "nothing will continue the load");

    bench.fake.world().reads.clear();
    let summary = bench.sync().await.unwrap();
    assert_eq!(summary.committed(), 2);
    assert_eq!(bench.fake.reads_of("a"), [] as [u32; 0], "a is committed by this run");
    assert_eq!(bench.fake.reads_of("b"), [0, 1], "never chunks across snapshots");
}

#[tokio::test]
async fn an_interrupted_load_that_lives_is_continued() {
    let bench = Bench::new(&[("a", 3), ("b", 2)]).await;
    bench.interrupted_after(2).await;
    let left = bench.state().streams[0].state.chunks.clone().unwrap();
    assert_eq!(left.len(), 1, "state.json lists what is still to load");
    let summary = bench.sync().await.unwrap();
    assert_eq!(bench.fake.reads_of("a"), [2]);
    assert_eq!(bench.fake.reads_of("b"), [0, 1]);
    assert!(bench.fake.world().reads.iter().all(|read| read.0 == "L1"));
    assert_eq!(summary.outcomes[0].rows, 30);
    assert_eq!(summary.outcomes[0].unrepresentable["d"], 3, "counts outlive the interruption");
}

#[tokio::test]
async fn without_its_snapshot_a_part_is_read_anew_and_a_whole_is_committed() {
    let bench = Bench::new(&[("a", 2), ("b", 3)]).await;
    bench.interrupted_after(3).await;
    // As if it had been killed between staging and committing a.
    bench.fake.world().live.clear();
    bench.fake.world().committed.clear();
    bench.staged_by_the_interrupted_run("a", 2);

    let summary = bench.sync().await.unwrap();
    assert_eq!(summary.committed(), 2);
    assert_eq!(bench.fake.reads_of("a"), [] as [u32; 0]);
    assert_eq!(bench.fake.reads_of("b"), [0, 1, 2]);
    assert_eq!(bench.fake.world().committed["a"].load_id, "L1");
    assert_eq!(bench.fake.world().committed["b"].load_id, "L2");
}

/// Killed after the commit of a, before the writer had removed what was staged
/// for it and before the state said that it was made.
#[tokio::test]
async fn what_a_finished_commit_left_staged_is_removed() {
    for load_lives in [true, false] {
        let bench = Bench::new(&[("a", 2), ("b", 3)]).await;
        bench.interrupted_after(3).await;
        bench.staged_by_the_interrupted_run("a", 2);
        if !load_lives {
            bench.fake.world().live.clear();
        }
        let summary = bench.sync().await.unwrap();
        assert_eq!(summary.committed(), 2);
        assert_eq!(bench.fake.reads_of("a"), [] as [u32; 0], "a is committed by this run");
        let world = bench.fake.world();
        let left: Vec<_> = world.staged.iter().filter(|path| path.contains("/a/")).collect();
        assert!(left.is_empty(), "the load lives: {load_lives}; left: {left:?}");
    }
}

#[tokio::test]
async fn a_snapshot_lost_on_the_way_is_replaced_by_another() {
    let bench = Bench::new(&[("a", 3)]).await;
    let gone = Fault::new(ErrorCode::LoadGone, "the server restarted");
    bench.fake.world().read_faults.insert(("a".into(), 2), vec![gone]);
    bench.sync().await.unwrap();
    let world = bench.fake.world();
    assert_eq!(world.committed["a"].load_id, "L2");
    assert_eq!(world.reads.iter().filter(|read| read.0 == "L2").count(), 3);
    assert!(world.staged.iter().all(|manifest| manifest.starts_with("L2/")), "the rest is gone");
}

#[tokio::test]
async fn an_old_or_lost_state_costs_work_and_nothing_else() {
    let bench = Bench::new(&[("a", 2), ("b", 2)]).await;
    bench.interrupted_after(3).await;
    let old = std::fs::read_to_string(bench.state_path()).unwrap();
    bench.sync().await.unwrap();
    bench.sync().await.unwrap();
    let newest = bench.fake.world().committed["a"].commit_id.clone();

    bench.fake.world().reads.clear();
    std::fs::write(bench.state_path(), old).unwrap();
    bench.sync().await.unwrap();
    assert_eq!(bench.fake.world().reads.len(), 4, "everything is read again");
    assert!(bench.fake.world().committed["a"].commit_id > newest);

    std::fs::remove_file(bench.state_path()).unwrap();
    let summary = bench.sync().await.unwrap();
    assert_eq!(summary.committed(), 2);
    assert_eq!(bench.fake.world().reads.len(), 8);
}

#[tokio::test]
async fn other_settings_are_not_mixed_with_what_was_staged() {
    let mut bench = Bench::new(&[("a", 3)]).await;
    bench.interrupted_after(2).await;
    bench.streams[0].table.partition_regex = "/{x,,}".into();
    bench.sync().await.unwrap();
    assert_eq!(bench.fake.reads_of("a"), [0, 1, 2]);
    assert_eq!(bench.fake.world().committed["a"].load_id, "L2");
    assert!(bench.fake.world().live.is_empty(), "the old load is let go of");
}
