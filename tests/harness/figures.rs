//! What a process serves at /metrics, as Prometheus reads it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};

use crate::supervised::http;

/// The samples of one look.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    text: String,
    /// By name and labels, as they are written.
    samples: BTreeMap<String, f64>,
}

impl Figures {
    /// Asks the endpoint at "127.0.0.1:port".
    pub fn of(address: &str) -> Result<Figures> {
        let answer = http(address, "GET /metrics", "")?;
        let (head, body) = answer.split_once("\r\n\r\n").context("an answer of HTTP")?;
        ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
        ensure!(head.contains("text/plain"), "{head}");
        Figures::read(body)
    }

    fn read(text: &str) -> Result<Figures> {
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let samples = lines.map(|line| {
            let (sample, value) = line.rsplit_once(' ').with_context(|| line.to_owned())?;
            Ok((sample.to_owned(), value.parse().with_context(|| line.to_owned())?))
        });
        Ok(Figures { text: text.to_owned(), samples: samples.collect::<Result<_>>()? })
    }

    /// Names of metrics, without those of the parts of a histogram.
    pub fn names(&self) -> BTreeSet<String> {
        let kinds = self.text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        kinds.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
    }

    /// The sum of the samples of this name that have all of these labels
    /// (`stream="public.a"`); none: there are none.
    pub fn sum(&self, name: &str, labels: &[&str]) -> Option<f64> {
        let of_name = |sample: &str| {
            let rest = sample.strip_prefix(name)?;
            let has = |label: &&str| rest.contains(*label);
            ((rest.is_empty() || rest.starts_with('{')) && labels.iter().all(has)).then_some(())
        };
        let found: Vec<f64> = self
            .samples
            .iter()
            .filter_map(|(sample, value)| of_name(sample).map(|()| *value))
            .collect();
        (!found.is_empty()).then(|| found.iter().sum())
    }

    /// The same, or what there is instead.
    pub fn expect(&self, name: &str, labels: &[&str]) -> Result<f64> {
        self.sum(name, labels).with_context(|| format!("no {name} {labels:?} in\n{}", self.text))
    }

    /// Everything as it came.
    pub fn text(&self) -> &str {
        &self.text
    }
}
