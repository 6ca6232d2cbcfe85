//! Converts panics to errors.
//!
//! This module records where the last panic happened, and decides whether the lease store is damaged or
//! sublet has a bug. The faces report the panic.
//! Invariant: a panic by itself prints nothing, because the store may catch it: a damaged file makes redb
//! panic.

use std::any::Any;
use std::panic::PanicHookInfo;
use std::sync::{Mutex, PoisonError};

/// The file and the line of the last panic.
static PLACE: Mutex<Option<String>> = Mutex::new(None);

/// Installs a panic hook for the whole process. From then on, a panic only records its location in the code.
/// It prints nothing, because the faces report panics.
pub fn record() {
    std::panic::set_hook(Box::new(|info: &PanicHookInfo<'_>| {
        let place = info.location().map(ToString::to_string);
        *PLACE.lock().unwrap_or_else(PoisonError::into_inner) = place;
    }));
}

/// Returns whether the last panic came from redb, which panics if pages are invalid. Returns false if
/// [`record`] has not been called.
pub fn was_in_redb() -> bool {
    PLACE.lock().unwrap_or_else(PoisonError::into_inner).as_deref().is_some_and(is_store)
}

/// The meaning of a panic, and a message for the user.
pub struct Panic {
    /// Whether the panic means that the lease store is damaged. Otherwise it is a bug.
    pub is_damage: bool,
    /// The message, including the location in the code.
    pub msg: String,
}

/// Explains a panic that no other code has handled. `payload` is the value that the panic carries.
pub fn explain(payload: &(dyn Any + Send)) -> Panic {
    let place = PLACE
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take()
        .unwrap_or_else(|| "an unknown location".to_owned());
    let what = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    let is_damage = is_store(&place);
    let msg = if is_damage {
        format!(
            "the lease store is damaged: {what} (at {place}); nothing was changed; run `sublet doctor \
             --repair`"
        )
    } else {
        format!("bug in sublet: {what} (at {place}); report this message to the developers")
    };
    Panic { is_damage, msg }
}

/// Returns whether the panic comes from redb, which panics if pages of a file are invalid. sublet's own code
/// never panics because of a damaged file.
fn is_store(place: &str) -> bool {
    place.contains("/redb-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_tells_a_damaged_store_from_a_bug() {
        assert!(is_store("/registry/src/any/redb-4.0.0/src/tree.rs:12:5"));
        assert!(!is_store("src/store/codec.rs:1:1"));
        assert!(!is_store("src/store/redb.rs:1:1"));
        assert!(!explain(&"boom").is_damage);
        assert!(explain(&String::from("boom")).msg.contains("boom"));
    }
}
