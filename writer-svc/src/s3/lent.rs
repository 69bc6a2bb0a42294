//! Keys that somebody lends for a while.
//!
//! Every request is signed with keys that are valid when it is sent: a long
//! upload lives on while they change. Keys that the store refuses before their
//! time are exchanged once for each request.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use object_store::Error;
use object_store::aws::AwsCredentialProvider;

use super::refusal::is_about_keys;

/// What a client's error is about when there are no keys.
pub const SOURCE: &str = "lender of keys";

/// Who lends keys.
#[tonic::async_trait]
pub trait Lender: Send + Sync + fmt::Debug {
    /// The keys of now, for the store's client.
    fn provider(self: Arc<Self>) -> AwsCredentialProvider;

    /// Gives up the keys that were used at this time or before; whether there
    /// are others now.
    async fn renew(&self, used: Instant) -> bool;
}

/// One request, and once more with new keys if it was refused for its keys.
pub async fn with_keys<T>(
    lender: Option<&Arc<dyn Lender>>,
    request: impl AsyncFn() -> Result<T, Error>,
) -> Result<T, Error> {
    let began = Instant::now();
    let outcome = request().await;
    match are_exchanged(lender, &outcome, began).await {
        true => request().await,
        false => outcome,
    }
}

/// Whether a request of that time was refused for its keys, and there are new
/// ones.
pub async fn are_exchanged<T>(
    lender: Option<&Arc<dyn Lender>>,
    outcome: &Result<T, Error>,
    began: Instant,
) -> bool {
    match (lender, outcome) {
        (Some(lender), Err(error)) if is_about_keys(error) => lender.renew(began).await,
        _ => false,
    }
}
