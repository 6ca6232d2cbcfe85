//! For stores that wrap another store in a test: reads go to the wrapped store.

/// Every method of a `StoreReader` but `list`, by another store.
macro_rules! reads {
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
pub(super) use reads;

/// `repair`, by another store.
macro_rules! repairs {
    ($me:ident => $store:expr) => {
        fn repair(&mut $me, cx: &Context) -> Result<crate::store::Repair, StoreError> {
            $store.repair(cx)
        }
    };
}
pub(super) use repairs;
