//! `/api/v1/history?at=TIME`: who held each address at a time, as `sublet history --at` shows it.
//!
//! Invariant: memory does not grow with the history. At most [`MOST_ROWS`] addresses are in memory: the
//! first ones, ordered by set and address.

use std::collections::BTreeMap;

use super::leases::{Done, MOST_ROWS, Page};
use super::query::{Cursor, Query};
use crate::alloc::Context;
use crate::error::StoreError;
use crate::model::{Event, SetName, Timestamp};
use crate::net::Addr;
use crate::rows::{EventRow, Time};
use crate::store::StoreReader;

/// The latest event of an address among those read so far: its time, and its row as JSON. The row is `None`
/// if the address was free after the event, or if the query does not select it.
type Last = (Timestamp, Option<Vec<u8>>);

/// Returns a page of the addresses that were held at the time `at`. Each row is the event by which the holder
/// got the address.
pub fn page(
    store: &mut dyn StoreReader,
    cx: &Context,
    at: Time,
    query: &Query,
) -> Result<Done, StoreError> {
    let mut last: BTreeMap<(SetName, Addr), Last> = BTreeMap::new();
    let mut is_cut = false;
    let after = query.after.as_ref().map(|cursor| (cursor.set.clone(), cursor.addr));
    store.history(cx, &mut |event: &Event| {
        let key = (event.set.clone(), event.addr);
        // The history is not sorted by time: events of an earlier boot may follow those of this boot.
        let is_later = last.get(&key).is_none_or(|(time, _)| *time <= event.time);
        if event.time <= at.0 && is_later && after.as_ref().is_none_or(|after| key > *after) {
            let row = EventRow::new(event);
            let is_shown = event.what.gives() && query.matches(&row.lease);
            // Serialization cannot fail: the row consists of strings and numbers.
            let text = is_shown.then(|| serde_json::to_vec(&row).unwrap_or_default());
            last.insert(key, (event.time, text));
        }
        // Only the first MOST_ROWS addresses are kept. A dropped address sorts after all of them, so later
        // events cannot bring it back.
        while last.len() > MOST_ROWS {
            last.pop_last();
            is_cut = true;
        }
        false
    })?;
    let cursor = |(set, addr): &(SetName, Addr)| Cursor { set: set.clone(), addr: *addr };
    let text = format!("{{\"time\":\"{}\",\"at\":\"{at}\",\"events\":[", Time(cx.now));
    let mut page = Page::new(text, query.limit);
    for (key, (_, row)) in &last {
        if row.as_ref().is_some_and(|row| !page.add(row, || Some(cursor(key)))) {
            break;
        }
    }
    if let Some((key, _)) = last.last_key_value().filter(|_| is_cut) {
        page.end_at(cursor(key));
    }
    Ok(page.done(""))
}
