//! A panic is answered like any other error.
//!
//! Owns: where the last panic happened, and its code. Invariant: a panic prints nothing by itself,
//! so that one which a store catches (a damaged file can make its engine panic) stays unseen.

use std::any::Any;
use std::panic::PanicHookInfo;
use std::sync::{Mutex, PoisonError};

use super::error::{DAMAGED, Failure, INTERNAL};

/// File and line of the last panic.
static PLACE: Mutex<Option<String>> = Mutex::new(None);

/// Makes panics silent; [`super::run`] answers them. For `main`: it changes the whole process.
pub fn record() {
    std::panic::set_hook(Box::new(|info: &PanicHookInfo<'_>| {
        let place = info.location().map(ToString::to_string);
        *PLACE.lock().unwrap_or_else(PoisonError::into_inner) = place;
    }));
}

/// The error for a panic that nobody caught.
pub fn failure(payload: &(dyn Any + Send)) -> Failure {
    let place = PLACE
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take()
        .unwrap_or_else(|| "an unknown place".to_owned());
    let what = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    if is_store(&place) {
        Failure::new(
            DAMAGED,
            format!(
                "the lease store is damaged: {what} (at {place}); nothing was changed; run \
                 `sublet doctor`"
            ),
        )
    } else {
        Failure::new(
            INTERNAL,
            format!("this is a bug in sublet, please report it: {what} (at {place})"),
        )
    }
}

/// The store's engine panics over pages that make no sense.
fn is_store(place: &str) -> bool {
    place.contains("/redb-") || place.contains("src/store/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_tells_a_damaged_store_from_a_bug() {
        assert!(is_store("/r/index.crates.io-1/redb-4.0.0/src/tree.rs:12:5"));
        assert!(is_store("src/store/codec.rs:1:1"));
        assert!(!is_store("src/cni/mod.rs:1:1"));
        assert_eq!(failure(&"boom").code, INTERNAL);
        assert!(failure(&String::from("boom")).msg.contains("boom"));
    }
}
