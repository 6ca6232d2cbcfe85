//! Macros for test stores that wrap another store and delegate most methods to it.

/// Delegates every method of `StoreReader` except `list` to another store.
macro_rules! delegate_reads {
    ($me:ident => $store:expr) => {
        fn pools(&mut $me) -> Result<Vec<crate::model::Pool>, StoreError> {
            $store.pools()
        }
        fn occupancy(
            &mut $me,
            cx: &Context,
            each: &mut crate::store::EachOccupied<'_>,
        ) -> Result<(), StoreError> {
            $store.occupancy(cx, each)
        }
        fn networks(&mut $me, cx: &Context) -> Result<Vec<crate::alloc::NetworkRanges>, StoreError> {
            StoreReader::networks(&mut *$store, cx)
        }
        fn draining(&mut $me, cx: &Context) -> Result<Vec<crate::alloc::Draining>, StoreError> {
            StoreReader::draining(&mut *$store, cx)
        }
        fn history(
            &mut $me,
            cx: &Context,
            filter: &mut crate::store::EventFilter<'_>,
        ) -> Result<Vec<crate::model::Event>, StoreError> {
            $store.history(cx, filter)
        }
        fn problems(
            &mut $me,
            cx: &Context,
            each: &mut dyn FnMut(crate::store::Problem),
        ) -> Result<(), StoreError> {
            $store.problems(cx, each)
        }
        fn counters(&mut $me, cx: &Context) -> Result<Vec<crate::model::Counter>, StoreError> {
            $store.counters(cx)
        }
        fn records(
            &mut $me,
            cx: &Context,
            each: &mut crate::store::EachRecord<'_>,
        ) -> Result<(), Error> {
            $store.records(cx, each)
        }
    };
}
pub(super) use delegate_reads;

/// Delegates `repair` to another store.
macro_rules! delegate_repairs {
    ($me:ident => $store:expr) => {
        fn repair(&mut $me, cx: &Context) -> Result<crate::store::Repair, StoreError> {
            $store.repair(cx)
        }
    };
}
pub(super) use delegate_repairs;

/// Delegates every required method of `Server` except `commit`: the methods that read records to `$read`, the
/// others to `$server`.
macro_rules! delegate_server {
    ($me:ident => $server:expr, $read:expr) => {
        fn place(&$me) -> String {
            $server.place()
        }
        fn max_operations(&$me) -> usize {
            $server.max_operations()
        }
        fn get(&$me, paths: &[&str], until: Instant) -> Result<Entries, StoreError> {
            $read.get(paths, until)
        }
        fn list(&$me, prefix: &str, until: Instant) -> Result<BTreeMap<String, Entry>, StoreError> {
            $read.list(prefix, until)
        }
        fn count(
            &$me,
            folder: &str,
            ranges: &[KeyRange],
            until: Instant,
        ) -> Result<Vec<u64>, StoreError> {
            $read.count(folder, ranges, until)
        }
    };
}
pub(super) use delegate_server;
