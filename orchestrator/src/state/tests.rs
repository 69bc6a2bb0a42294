//! Both documented forms, and what we add to them.

use super::*;

const GLOBAL: &str = r#"{"type": "GLOBAL", "global": {"state": {"lsn": "0/198C935"},
    "streams": ["public.t"]}, "streams": [{"stream": "t", "namespace": "public",
    "sync_mode": "cdc", "state": {"chunks": [{"min": "'(0,0)'", "max": "'(512,0)'"}]}}]}"#;
const STREAM: &str = r#"{"type": "STREAM", "streams": [{"stream": "t",
    "namespace": "public", "sync_mode": "", "state": {"chunks": [], "id": 7}},
    {"stream": "u", "namespace": "public", "state": {"chunks": [{"min": null, "max": "5"}]}}]}"#;

fn saved() -> SavedLoad {
    let mut load = SavedLoad {
        id: "L".into(),
        chunk_count: 2,
        settings_hash: "h".into(),
        ..Default::default()
    };
    for chunk_id in [1, 0, 1] {
        load.add(&StagedChunk {
            chunk_id,
            manifest: format!("/m/{chunk_id}"),
            rows: 5,
            ..Default::default()
        });
    }
    load
}

#[test]
fn both_documented_forms_are_read_and_global_is_written() {
    for text in [GLOBAL, STREAM] {
        let state = State::parse(text).unwrap();
        let again = State::parse(&state.to_text()).unwrap();
        assert_eq!(again.kind, Kind::Global);
        assert_eq!(again.streams, state.streams);
        assert!(again.global.is_some());
    }
    let state = State::parse(GLOBAL).unwrap();
    assert_eq!(state.global.unwrap().state.lsn.as_deref(), Some("0/198C935"));
    let chunks = state.streams[0].state.chunks.as_ref().unwrap();
    assert_eq!(chunks[0].max, Value::from("'(512,0)'"));
    let state = State::parse(STREAM).unwrap();
    assert_eq!(state.kind, Kind::Stream);
    assert_eq!(state.stream("public", "t").unwrap().state.chunks, Some(vec![]));
    assert_eq!(state.stream("public", "t").unwrap().state.rest["id"], 7);
}

#[test]
fn nulls_blanks_and_unknown_keys_are_no_trouble() {
    assert_eq!(State::parse(" \n").unwrap(), State::default());
    let text = r#"{"type":"GLOBAL","global":null,"streams":null,"version":3}"#;
    let state = State::parse(text).unwrap();
    assert!(state.to_text().contains("\"version\": 3"));
}

#[test]
fn a_malformed_file_is_told_by_line_and_column() {
    let error = State::parse("{\"type\":\n  \"LOCAL\"}").unwrap_err();
    assert_eq!(error.line, 2, "{error}");
    assert!(error.to_string().contains("GLOBAL"), "{error}");
    assert_eq!(State::parse("{\n\n]").unwrap_err().line, 3);
}

#[test]
fn a_run_and_its_staged_chunks_read_back_as_they_were() {
    let mut state = State::parse(GLOBAL).unwrap();
    state.begin_load("public", "t", SyncMode::FullRefresh, saved());
    state.run = Some(Run {
        id: "0191".into(),
        status: RunStatus::Running,
        started_at: DateTime::from_timestamp_micros(1_700_000_000_123_456).unwrap(),
        load: Some(LiveLoad { id: "L".into(), ..Default::default() }),
    });
    let again = State::parse(&state.to_text()).unwrap();
    assert_eq!(again, state);
    assert_eq!(again.run.unwrap().started_at.timestamp_micros(), 1_700_000_000_123_456);
    assert!(again.global.unwrap().streams.is_empty(), "change capture let go of the stream");
}

#[test]
fn descriptors_come_by_chunk_and_once() {
    let load = saved();
    assert!(load.is_complete());
    let ids: Vec<_> = load.descriptors().iter().map(|chunk| chunk.chunk_id).collect();
    assert_eq!(ids, [0, 1]);
    assert!(load.descriptors().iter().all(|c| c.load_id == "L" && c.settings_hash == "h"));
    assert!(!SavedLoad::default().is_complete());
}

#[test]
fn the_position_of_change_capture_is_left_alone() {
    let mut state = State::parse(GLOBAL).unwrap();
    state.set_consistent_point("0/2");
    assert_eq!(state.global.as_ref().unwrap().state.lsn.as_deref(), Some("0/198C935"));
    assert!(state.remove("public", "t"));
    assert!(!state.remove("public", "t"));
    state.set_consistent_point("0/2");
    assert_eq!(state.global.unwrap().state.lsn.as_deref(), Some("0/2"));
}
