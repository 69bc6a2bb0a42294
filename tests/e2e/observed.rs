//! What operators see of running services: figures, traces, logs.

mod figures;
mod logs;
mod secrets;
mod traces;
