//! Services that operators stop and start while syncs run.

use anyhow::{Result, ensure};
use tests::gate::{self, Gate, STREAMS};
use tests::run::signal;
use tests::services::{Service, sync_through};
use tests::{moment, verify};

#[test]
fn a_writer_that_is_asked_to_end_completes_what_it_has_and_leaves_the_rest_to_the_other()
-> Result<()> {
    let project = gate::project("writer_drains")?;
    let source = Service::source(&[])?;
    let mut writers = [Service::writer(&[])?, Service::writer(&[])?];
    let arguments = sync_through(Some(&source), &[&writers[0], &writers[1]]);
    let gate = Gate::shut(project.database(), "second")?;
    let mut sync = project.start(&arguments)?;
    moment::reached(&project, &mut sync, "all but one chunk is staged", |state| {
        moment::all_but_one(state, "a")
    })?;
    // The last chunk is on its way to one of them.
    signal(writers[0].pid(), "TERM")?;
    drop(gate);
    sync.wait()?.succeeded()?;
    verify::same_as_source(&project, &STREAMS)?;
    ensure!(writers[0].terminate()?.success(), "{}", writers[0].log());
    Ok(())
}

#[test]
fn a_writer_that_is_restarted_in_mid_sync_is_waited_for() -> Result<()> {
    let project = gate::project("writer_restarts")?;
    // A drain may take ten seconds.
    project.edit("source.json", |file| file["retry_count"] = 10.into())?;
    let source = Service::source(&[])?;
    let mut writer = Service::writer(&[])?;
    let arguments = sync_through(Some(&source), &[&writer]);
    let gate = Gate::shut(project.database(), "second")?;
    let mut sync = project.start(&arguments)?;
    moment::reached(&project, &mut sync, "all but one chunk is staged", |state| {
        moment::all_but_one(state, "a")
    })?;
    // What waits at the gate does not end in time, and is read again.
    writer.terminate()?;
    writer.restart()?;
    drop(gate);
    sync.wait()?.succeeded()?;
    verify::same_as_source(&project, &STREAMS)
}
