//! A cached value that a background thread reads. A request for an outdated value starts a new read.
//!
//! Invariant: requests that arrive during a read share its result, and no request waits longer than its own
//! time limit.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::StoreError;
use crate::sys::panic;

/// A value stays fresh for at least this multiple of the time that reading it took. Therefore the background
/// thread spends at most about a tenth of its time on the value.
const TIMES: u32 = 10;

/// The shortest time between a failed read and the next attempt.
const AGAIN: Duration = Duration::from_secs(1);

/// How long a read may take before the store is reported as not responding.
const LATE: Duration = Duration::from_secs(30);

/// Why a store could not be read.
#[derive(Clone, Debug)]
pub struct Fault {
    /// `locked`, `unavailable` or `unreadable`.
    pub kind: &'static str,
    /// What failed, why, and what to do.
    pub text: String,
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Fault {
        let kind = match error {
            StoreError::Locked { .. } => "locked",
            StoreError::Unavailable { .. } | StoreError::Unanswered { .. } => "unavailable",
            _ => "unreadable",
        };
        Fault { kind, text: error.to_string() }
    }
}

/// A value that is read in the background.
pub struct Slot<T> {
    state: Mutex<State<T>>,
    read: Condvar,
}

struct State<T> {
    value: Option<Arc<T>>,
    /// Why the newest attempt failed.
    fault: Option<Fault>,
    fresh_until: Option<Instant>,
    /// Whether a read has been requested but has not finished.
    is_asked: bool,
    /// When the current read began; `None` if no read is in progress.
    reading: Option<Instant>,
}

/// A read of the store, to be run by the background thread.
pub type Job = Box<dyn FnOnce() + Send>;

/// Runs `work`, and turns a panic into a [`Fault`], so that the background thread survives it.
pub fn caught<T>(work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| {
        Err(Fault { kind: "unreadable", text: panic::explain(&*payload).msg })
    })
}

/// The state of a [`Slot`]: its newest value, and the error if the store cannot be read now.
pub struct Seen<T> {
    /// The newest value that could be read.
    pub value: Option<Arc<T>>,
    /// Why the store cannot be read now.
    pub fault: Option<Fault>,
}

impl<T> Seen<T> {
    /// Returns the value. Fails if the last read failed or takes too long, even if there is an older value.
    pub fn now(self) -> Result<Arc<T>, Fault> {
        match self {
            Seen { value: Some(value), fault: None } => Ok(value),
            Seen { fault: Some(fault), .. } => Err(fault),
            Seen { .. } => {
                let text = "the lease store is being read for the first time; try again".to_owned();
                Err(Fault { kind: "unavailable", text })
            }
        }
    }
}

impl<T> Default for Slot<T> {
    fn default() -> Slot<T> {
        let (value, fault, fresh_until, reading) = (None, None, None, None);
        let state = State { value, fault, fresh_until, is_asked: false, reading };
        Slot { state: Mutex::new(state), read: Condvar::new() }
    }
}

impl<T> State<T> {
    fn seen(&self) -> Seen<T> {
        let waiting = self.reading.map(|since| since.elapsed()).filter(|waiting| *waiting > LATE);
        let late = waiting.map(|waiting| Fault {
            kind: "unavailable",
            text: format!("the lease store has not responded for {} s", waiting.as_secs()),
        });
        Seen { value: self.value.clone(), fault: self.fault.clone().or(late) }
    }
}

impl<T: Send + Sync + 'static> Slot<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the newest value without starting a read.
    pub fn last(&self) -> Seen<T> {
        self.lock().seen()
    }

    /// Returns the newest value. If the value is older than `keep`, first gives `start` a job that calls
    /// `read`, and waits at most `patience` for the result. A value that took long to read counts as fresh
    /// for longer than `keep`.
    pub fn get(
        self: &Arc<Self>,
        keep: Duration,
        patience: Duration,
        start: impl FnOnce(Job),
        read: impl FnOnce() -> Result<T, Fault> + Send + 'static,
    ) -> Seen<T> {
        let mut state = self.lock();
        if state.fresh_until.is_some_and(|until| Instant::now() < until) {
            return state.seen();
        }
        if !state.is_asked {
            state.is_asked = true;
            let slot = self.clone();
            start(Box::new(move || slot.fill(keep, read)));
        }
        let waited = self.read.wait_timeout_while(state, patience, |s| s.is_asked);
        waited.unwrap_or_else(PoisonError::into_inner).0.seen()
    }

    fn fill(&self, keep: Duration, read: impl FnOnce() -> Result<T, Fault>) {
        let began = Instant::now();
        self.lock().reading = Some(began);
        let answer = caught(read);
        let mut state = self.lock();
        (state.reading, state.is_asked) = (None, false);
        let keep = if answer.is_ok() { keep } else { AGAIN };
        state.fresh_until = Some(Instant::now() + keep.max(began.elapsed() * TIMES));
        match answer {
            Ok(value) => (state.value, state.fault) = (Some(Arc::new(value)), None),
            Err(fault) => state.fault = Some(fault),
        }
        self.read.notify_all();
    }

    /// Makes the value outdated, so that the next request reads a new one.
    pub fn expire(&self) {
        self.lock().fresh_until = None;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn start(job: Job) {
        std::thread::spawn(job);
    }

    #[test]
    fn nobody_waits_longer_than_they_choose_to() {
        let slot = Arc::new(Slot::default());
        let (answer, wait) = mpsc::channel();
        let short = Duration::from_millis(20);
        let seen = slot.get(AGAIN, short, start, move || Ok(wait.recv().unwrap_or(0)));
        assert!(seen.value.is_none() && seen.now().is_err());
        // A second read must not begin before the first read has finished.
        assert!(slot.get(AGAIN, short, start, || panic!("a second reader")).value.is_none());
        answer.send(7).unwrap();
        let seen = slot.get(AGAIN, Duration::from_secs(30), start, || panic!("a second reader"));
        assert_eq!(*seen.now().map_err(|f| f.text).unwrap(), 7);
    }

    #[test]
    fn a_failure_keeps_the_last_value_and_says_so() {
        let slot = Arc::new(Slot::default());
        let (soon, long) = (Duration::ZERO, Duration::from_secs(30));
        slot.get(soon, long, start, || Ok(1));
        let fault = || Err(Fault { kind: "locked", text: "held".to_owned() });
        let mut seen = slot.get(soon, long, start, fault);
        while seen.fault.is_none() {
            seen = slot.get(soon, long, start, fault);
        }
        assert_eq!(seen.value.as_deref(), Some(&1));
        assert_eq!(seen.now().unwrap_err().kind, "locked");
        let slot: Arc<Slot<u8>> = Arc::default();
        assert_eq!(
            slot.get(soon, long, start, || panic!("a bug")).now().unwrap_err().kind,
            "unreadable"
        );
    }
}
