//! Figures of a sync for Prometheus and OTLP, beside those that are counted where
//! they come up ([`proto::metrics`]): what stats.json has.

use proto::metrics::{self, KeyValue};

use crate::config::source::UpdateMethod;
use crate::progress::Progress;
use crate::sync::lag::Measured;

/// Has the sync's display observed whenever figures are asked for. The lag is of
/// the slot of `method`.
pub fn observe(progress: &Progress, method: Option<&UpdateMethod>) {
    let meter = metrics::meter();
    let shown = progress.clone();
    meter
        .u64_observable_gauge("tidewater.sync.reading.chunks")
        .with_description("Chunks of a load that are on their way to a writer")
        .with_callback(move |chunks| chunks.observe(shown.counters().reading, &[]))
        .build();
    let shown = progress.clone();
    meter
        .f64_observable_gauge("tidewater.sync.fraction")
        .with_description("How much of the load is done, from 0 to 1")
        .with_callback(move |fraction| fraction.observe(shown.counters().fraction, &[]))
        .build();
    let Some(method) = method else { return };
    type Figure = fn(&Measured) -> Option<f64>;
    let figures: [(&str, &str, Figure); 4] = [
        ("lag.bytes", "The log that is not committed and confirmed yet", |lag| {
            Some(lag.bytes as f64)
        }),
        ("lag.seconds", "Since the tables were what the source was", |lag| lag.seconds),
        ("retained.wal.bytes", "WAL that the server holds for the slot", |lag| {
            Some(lag.held.retained_bytes as f64)
        }),
        ("safe.wal.bytes", "How much more WAL may be held before the slot is lost", |lag| {
            lag.held.safe_bytes.map(|bytes| bytes as f64)
        }),
    ];
    for (name, what, figure) in figures {
        let (shown, slot) = (progress.clone(), method.replication_slot.clone());
        let slot = [KeyValue::new("slot", slot)];
        meter
            .f64_observable_gauge(format!("tidewater.sync.{name}"))
            .with_description(what)
            .with_callback(move |gauge| {
                if let Some(value) = shown.lag().as_ref().and_then(figure) {
                    gauge.observe(value, &slot);
                }
            })
            .build();
    }
}
