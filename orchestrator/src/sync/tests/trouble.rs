//! Streams in trouble, against services that keep everything in memory.

use super::capture::{bench, reads};
use super::*;

/// `a` is a log that nothing has come for yet, `b` a table.
async fn with_a_log() -> Bench {
    let mut bench = bench(&[("a", 1), ("b", 1)]).await;
    bench.streams[0].sync_mode = SyncMode::StrictCdc;
    let end = bench.fake.world().log.end;
    bench.fake.world().log.confirmed = end;
    bench.sync().await.unwrap();
    bench
}

#[tokio::test]
async fn a_table_that_is_gone_is_passed_by_and_loaded_when_it_is_back() {
    for in_mid_run in [false, true] {
        let bench = bench(&[("a", 1), ("b", 1)]).await;
        bench.sync().await.unwrap();
        bench.fake.world().write(&["a", "b", "a"]);
        let before = bench.fake.world().committed["a"].clone();
        match in_mid_run {
            true => bench.fake.world().log.going.insert("a".into()),
            false => bench.fake.world().log.gone.insert("a".into()),
        };
        reads(&bench);
        for round in 0..2 {
            let summary = bench.sync().await.unwrap();
            assert_eq!(summary.outcomes.len(), 1, "b is synced");
            assert_eq!(summary.troubles[0].stream, "public.a", "{round}");
            assert_eq!(summary.troubles[0].to_do, "run discover");
            assert_eq!(bench.fake.world().committed["a"], before, "a keeps what it has");
            bench.fake.world().assert_complete("b goes on");
            let state = bench.state();
            assert_eq!(state.run.unwrap().status, RunStatus::Finished);
            assert_eq!(state.global.unwrap().streams, ["public.b"]);
            let world = bench.fake.world();
            assert_eq!(world.log.confirmed, world.log.end, "the slot is not held");
        }
        bench.fake.world().log.gone.clear();
        assert_eq!(reads(&bench), [""; 0]);
        let summary = bench.sync().await.unwrap();
        assert!(summary.troubles.is_empty());
        assert_eq!(reads(&bench), ["a"], "it has missed changes");
        bench.fake.world().assert_complete("a is back");
    }
}

#[tokio::test]
async fn a_log_with_a_hole_does_not_hold_the_others_and_stays_in_trouble() {
    // Whether anything had come for the log before.
    for begun in [true, false] {
        let bench = with_a_log().await;
        let mut logged = Vec::new();
        if begun {
            bench.fake.world().write(&["a", "b"]);
            logged.push(bench.fake.world().log.end - 11);
            bench.sync().await.unwrap();
        }
        bench.fake.world().write(&["b", "a", "b"]);
        let untold = bench.fake.world().log.end - 11;
        bench.fake.world().log.untold.insert(untold);
        for round in 0..3 {
            bench.fake.world().write(&["a", "b"]);
            let summary = bench.sync().await.unwrap();
            assert_eq!(summary.troubles.len(), 1, "{round}: {:?}", summary.troubles);
            assert!(summary.troubles[0].what.contains("hole"), "{:?}", summary.troubles);
            let world = bench.fake.world();
            let added = world.log.contents.get("a").map(|log| log.added.clone());
            assert_eq!(added.unwrap_or_default(), logged, "{round}");
            assert_eq!(world.log.confirmed, world.log.end, "the slot is not held");
            let more = round + usize::from(begun);
            assert_eq!(world.log.contents["b"].added.len(), 3 + more, "{round}");
        }
    }
}

#[tokio::test]
async fn the_slot_waits_for_a_log_that_goes_on_later_and_the_others_do_not() {
    // Whether anything had come for the log before; whether it comes in mid-run; whether
    // state.json is lost meanwhile.
    for case in 0..8 {
        let (begun, in_mid_run, is_lost) = (case & 1 != 0, case & 2 != 0, case & 4 != 0);
        let bench = with_a_log().await;
        let mut logged = Vec::new();
        let write = |tables: &[&str], logged: &mut Vec<u64>| {
            let mut world = bench.fake.world();
            let first = world.log.end;
            world.write(tables);
            let at = (1..).zip(tables).map(|(nth, table)| (first + 10 * nth, *table));
            logged.extend(at.filter(|(_, table)| *table == "a").map(|(at, _)| at));
        };
        if begun {
            write(&["a", "b"], &mut logged);
            bench.sync().await.unwrap();
        }
        // What the others have is further than what the log has.
        write(&["b"], &mut logged);
        bench.sync().await.unwrap();
        let (before, held) = (logged.clone(), bench.fake.world().log.confirmed);
        match in_mid_run {
            true => bench.fake.world().log.revoking.insert("a".into()),
            false => bench.fake.world().log.revoked.insert("a".into()),
        };
        for round in 0..3 {
            write(&["b", "a", "b"], &mut logged);
            let summary = bench.sync().await.unwrap();
            let told = &summary.troubles[0];
            assert!(told.what.contains("the replication slot slot is held"), "{told:?}");
            assert!(told.to_do.contains("GRANT SELECT"), "{told:?}");
            assert!(told.to_do.contains("clear-destination"), "{told:?}");
            let world = bench.fake.world();
            assert_eq!(world.log.confirmed, held, "{case} {round}: the slot is held");
            let added = world.log.contents.get("a").map(|log| log.added.clone());
            assert_eq!(added.unwrap_or_default(), before, "{case} {round}");
            let added = world.log.contents["b"].added.len();
            assert_eq!(added, 2 * round + 3 + usize::from(begun), "{case} {round}");
        }
        if is_lost {
            std::fs::remove_file(bench.state_path()).unwrap();
        }
        bench.fake.world().log.revoked.clear();
        write(&["a", "b"], &mut logged);
        let summary = bench.sync().await.unwrap();
        assert!(summary.troubles.is_empty(), "{case}: {:?}", summary.troubles);
        let world = bench.fake.world();
        assert_eq!(world.log.contents["a"].added, logged, "{case}: every change once");
        assert_eq!(world.log.confirmed, world.log.end, "{case}: the slot goes on");
        assert_eq!(world.log.contents["b"].added.len(), 8 + usize::from(begun), "{case}");
    }
}

#[tokio::test]
async fn a_log_that_is_given_up_while_the_slot_waits_for_it_lets_it_go_on() {
    let mut bench = bench(&[("a", 1), ("b", 1)]).await;
    bench.streams[0].sync_mode = SyncMode::StrictCdc;
    let end = bench.fake.world().log.end;
    bench.fake.world().log.confirmed = end;
    bench.fake.world().write(&["a", "b"]);
    bench.sync().await.unwrap();
    bench.fake.world().log.revoked.insert("a".into());
    bench.fake.world().write(&["a", "b"]);
    bench.sync().await.unwrap();
    let log = bench.streams.remove(0);
    bench.sync().await.unwrap();
    {
        let world = bench.fake.world();
        assert_eq!(world.log.confirmed, world.log.end, "nobody waits any more");
    }
    // And it is not taken for whole afterwards.
    bench.streams.insert(0, log);
    bench.fake.world().log.revoked.clear();
    let summary = bench.sync().await.unwrap();
    assert!(summary.troubles[0].what.contains("hole"), "{:?}", summary.troubles);
}

#[tokio::test]
async fn where_only_logs_in_trouble_are_left_the_slot_stays() {
    let mut bench = bench(&[("a", 1)]).await;
    bench.streams[0].sync_mode = SyncMode::StrictCdc;
    bench.sync().await.unwrap();
    bench.fake.world().write(&["a"]);
    let before = bench.fake.world().log.confirmed;
    let untold = bench.fake.world().log.end - 1;
    for _ in 0..2 {
        bench.fake.world().log.untold.insert(untold);
        assert_eq!(bench.sync().await.unwrap().troubles.len(), 1);
        assert_eq!(bench.fake.world().log.confirmed, before);
    }
}

#[tokio::test]
async fn a_table_that_is_only_read_and_is_gone_does_not_hold_up_the_others() {
    for in_mid_load in [false, true] {
        let bench = Bench::new(&[("a", 2), ("b", 1), ("c", 2)]).await;
        bench.sync().await.unwrap();
        let before = bench.fake.world().committed["a"].clone();
        let gone = Fault::new(ErrorCode::Permission, "no");
        match in_mid_load {
            true => {
                let at = ("a".into(), 1);
                bench.fake.world().read_faults.insert(at, vec![gone]);
            }
            false => {
                bench.fake.world().log.gone.insert("a".into());
            }
        }
        for _ in 0..2 {
            reads(&bench);
            let summary = bench.sync().await.unwrap();
            let synced: Vec<_> = summary.outcomes.iter().map(|o| o.stream.as_str()).collect();
            assert_eq!(synced, ["public.b", "public.c"]);
            assert_eq!(summary.troubles.len(), 1);
            assert_eq!(summary.troubles[0].stream, "public.a");
            assert_eq!(bench.fake.world().committed["a"], before, "a keeps what it has");
            assert!(bench.fake.world().live.is_empty(), "the load is closed");
            assert_eq!(bench.state().run.unwrap().status, RunStatus::Finished);
        }
        bench.fake.world().log.gone.clear();
        bench.fake.world().log.revoked.clear();
        assert_eq!(bench.sync().await.unwrap().outcomes.len(), 3);
        assert_ne!(bench.fake.world().committed["a"], before);
    }
}

#[tokio::test]
async fn where_no_table_can_be_read_the_sync_fails_as_it_does_for_one() {
    let bench = Bench::new(&[("a", 1), ("b", 1)]).await;
    bench.fake.world().log.gone.extend(["a".to_owned(), "b".to_owned()]);
    let Err(Stop::Failed(fault)) = bench.sync().await else { panic!("there is nothing") };
    assert_eq!(fault.message, "all are gone");
}

#[tokio::test]
async fn followed_tables_and_those_that_are_only_read_do_not_hold_up_each_other() {
    // Which one is gone.
    for gone in ["a", "b"] {
        let mut bench = bench(&[("a", 1), ("b", 1)]).await;
        bench.streams[1].sync_mode = SyncMode::FullRefresh;
        bench.sync().await.unwrap();
        reads(&bench);
        for _ in 0..2 {
            bench.fake.world().log.gone.insert(gone.into());
            bench.fake.world().write(&["a"]);
            let summary = bench.sync().await.unwrap();
            assert_eq!(summary.outcomes.len(), 1, "{gone}");
            assert_eq!(summary.troubles[0].stream, format!("public.{gone}"));
        }
        let expected: &[&str] = if gone == "a" { &["b", "b"] } else { &[] };
        assert_eq!(reads(&bench), expected, "{gone}");
        bench.fake.world().log.gone.clear();
        let summary = bench.sync().await.unwrap();
        assert!(summary.troubles.is_empty());
        assert_eq!(reads(&bench), ["b"], "{gone}: a was followed all the while, or nobody was");
        let world = bench.fake.world();
        let added = world.log.contents["a"].added.len();
        assert_eq!(added, 2, "{gone}: every change, once");
    }
}
