//! What a sync works with: services, configuration, display, and what ends it.

use proto::dial::Connection;
use proto::v1::source_client::SourceClient;
use proto::v1::{Destination, SourceConfig};
use tokio_util::sync::CancellationToken;

use super::attempt::Job;
use super::continuous::Continuous;
use super::stop::Stop;
use crate::config::source::UpdateMethod;
use crate::progress::Progress;
use crate::services::Services;
use crate::writers::Writers;

/// What every step of a sync uses.
#[derive(Clone)]
pub struct Context<'a> {
    /// The source service.
    pub source: SourceClient<Connection>,
    /// The source service is our child: a load never outlives this process.
    pub owns_source: bool,
    /// How the source service reaches PostgreSQL.
    pub source_config: &'a SourceConfig,
    /// What changes come through.
    pub update_method: Option<&'a UpdateMethod>,
    /// All writers; any can commit what another has staged.
    pub writers: &'a Writers,
    /// Where the tables lie.
    pub destination: &'a Destination,
    /// The display.
    pub progress: Progress,
    /// Stops the sync.
    pub shutdown: CancellationToken,
    /// The sync goes on; none: it ends where the log ended when it began.
    pub continuous: Option<Continuous>,
}

impl<'a> Context<'a> {
    pub(super) fn new(
        job: &Job<'a>,
        services: &'a Services,
        continuous: Option<&Continuous>,
    ) -> Self {
        let inputs = job.inputs;
        Context {
            source: services.source(),
            owns_source: services.owns_source(),
            source_config: &inputs.source.config,
            update_method: inputs.source.update_method.as_ref(),
            writers: services.writers(),
            destination: &inputs.destination.destination,
            progress: job.progress.clone(),
            shutdown: continuous.map_or(&job.shutdown, Continuous::shutdown).clone(),
            continuous: continuous.cloned(),
        }
    }

    /// Runs a step unless the sync is stopped first.
    pub async fn cancellable<T>(&self, step: impl Future<Output = T>) -> Result<T, Stop> {
        self.shutdown.run_until_cancelled(step).await.ok_or(Stop::Interrupted)
    }
}
