//! Statistics over samples.

use std::collections::BTreeMap;

/// The measured durations in milliseconds, one for each call.
#[derive(Clone, Default)]
pub struct Sample(Vec<f64>);

impl Sample {
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the value below which the given share (0 to 1) of the values lies; NaN if there are no values.
    pub fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss
        )]
        let at = (sorted.len() as f64 * share) as usize;
        sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
    }

    pub fn p50(&self) -> f64 {
        self.quantile(0.5)
    }

    pub fn p99(&self) -> f64 {
        self.quantile(0.99)
    }

    pub fn max(&self) -> f64 {
        self.quantile(1.0)
    }

    /// Returns the difference between two samples, round by round: the value of this sample minus the value
    /// of `other`.
    pub fn minus(&self, other: &Sample) -> Sample {
        Sample(self.0.iter().zip(&other.0).map(|(a, b)| a - b).collect())
    }
}

/// The samples by name. A name is `plugin/store/command`.
#[derive(Default)]
pub struct Samples(pub BTreeMap<String, Sample>);

impl Samples {
    pub fn push(&mut self, name: &str, value: f64) {
        self.0.entry(name.to_owned()).or_default().push(value);
    }

    /// Returns the sample with this name; an empty sample if there is no such sample.
    pub fn get(&self, name: &str) -> Sample {
        self.0.get(name).cloned().unwrap_or_default()
    }

    pub fn p50(&self, name: &str) -> f64 {
        self.get(name).p50()
    }
}
