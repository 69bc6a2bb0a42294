//! The writers behind a name: `dns://name:port` stands for every address that
//! the name has, now and later.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future;
use proto::address::absolute;
use proto::v1::ErrorCode;
use proto::{Fault, Tls, limits};
use tokio::net::lookup_host;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::services::{self, Trust};
use crate::writers::{Writer, Writers};

/// Prefix of an address that is such a name.
const PREFIX: &str = "dns://";
/// Between two looks at what the names stand for.
const REFRESH: Duration = Duration::from_secs(5);

/// Whether the address stands for several.
pub fn is_name(address: &str) -> bool {
    address.starts_with(PREFIX)
}

/// The names of a run, each "name:port".
#[derive(Clone)]
pub struct Names(Vec<String>);

impl Names {
    /// Those among the addresses that the user gives.
    pub fn of(addresses: &[String]) -> Self {
        let names = addresses.iter().filter_map(|address| address.strip_prefix(PREFIX));
        Names(names.map(|name| name.trim_start_matches('/').to_owned()).collect())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Every address behind them once, as it must be dialled.
    async fn addresses(&self, tls: &Tls) -> Result<Vec<String>, Fault> {
        let found = future::try_join_all(self.0.iter().map(|name| resolve(name, tls))).await?;
        let found: BTreeSet<String> = found.into_iter().flatten().collect();
        Ok(found.into_iter().collect())
    }

    /// Those that answer; none is an error, unless there is no name.
    pub async fn first(&self, trust: &Trust) -> Result<Vec<Writer>, Fault> {
        if self.is_empty() {
            return Ok(Vec::new());
        }
        let addresses = self.addresses(&trust.tls).await?;
        let dialled = addresses.iter().map(|address| services::writer(address, trust));
        let (mut reached, mut failed) = (Vec::new(), None);
        for answer in future::join_all(dialled).await {
            match answer {
                Ok(writer) => reached.push(writer),
                // One that starts or ends just now; the others do its work.
                Err(fault) if fault.transient => {
                    tracing::warn!("a writer is left out for now: {fault}");
                    failed = Some(fault);
                }
                Err(fault) => return Err(fault),
            }
        }
        match failed {
            Some(fault) if reached.is_empty() => Err(fault),
            _ => Ok(reached),
        }
    }

    /// Keeps the pool equal to what the names stand for. Never ends.
    pub async fn follow(self, trust: Trust, writers: Writers) {
        let mut tick = interval(REFRESH);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick.tick().await;
        loop {
            tick.tick().await;
            // A name server that does not answer says nothing about writers.
            let Ok(found) = self.addresses(&trust.tls).await else { continue };
            let new = writers.update(&found);
            let dialled = new.iter().map(|address| services::writer(address, &trust));
            for answer in future::join_all(dialled).await {
                match answer {
                    Ok(writer) => {
                        tracing::info!("another writer: {}", writer.address);
                        writers.add(writer);
                    }
                    Err(fault) => tracing::debug!("a writer does not answer yet: {fault}"),
                }
            }
        }
    }
}

/// What is behind "name:port" now. With TLS the certificate must be for the name.
async fn resolve(name: &str, tls: &Tls) -> Result<Vec<String>, Fault> {
    let failed = |why: String| {
        let message = format!("--writer {PREFIX}{name}: {why}");
        Fault::new(ErrorCode::Unreachable, message)
            .remedy("correct the name and port (dns://name:port), or list the writers")
    };
    let found = timeout(limits::CONNECT_TIMEOUT, lookup_host(name))
        .await
        .map_err(|_| failed("the name server does not answer".to_owned()))?
        .map_err(|error| failed(error.to_string()))?;
    let host = name.rsplit_once(':').map_or(name, |(host, _)| host);
    let addresses: Vec<String> = found
        .map(|address| match tls.verifies() {
            true => format!("https://{host}@{address}"),
            false => absolute(&address.to_string(), tls),
        })
        .collect();
    if addresses.is_empty() {
        return Err(failed("no address is behind the name".to_owned()));
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(addresses: &[&str]) -> Names {
        Names::of(&addresses.iter().map(|address| (*address).to_owned()).collect::<Vec<_>>())
    }

    #[tokio::test]
    async fn a_name_stands_for_each_of_its_addresses_once() {
        assert!(names(&["h:1"]).is_empty());
        let names = names(&["h:1", "dns://localhost:2", "dns:///localhost:2"]);
        let found = names.addresses(&Tls::default()).await.unwrap();
        assert!(!found.is_empty() && found.iter().all(|at| at.ends_with(":2")), "{found:?}");
        assert!(found.iter().all(|at| at.starts_with("http://")), "{found:?}");
    }

    #[tokio::test]
    async fn a_name_that_cannot_be_looked_up_is_an_error_that_names_it() {
        let error = names(&["dns://no port"]).addresses(&Tls::default()).await.unwrap_err();
        assert!(error.message.contains("dns://no port"), "{error}");
        assert!(!error.remedy.is_empty());
    }
}
