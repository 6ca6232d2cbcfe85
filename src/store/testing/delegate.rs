//! For stores that stand before another one in a test: whatever people see, the other one tells.

/// What a store tells, told by another one.
macro_rules! tells {
    ($me:ident => $store:expr) => {
        fn pools(&mut $me) -> Result<Vec<crate::model::Pool>, StoreError> {
            $store.pools()
        }
        fn taken(&mut $me, cx: &Context, each: &mut crate::store::Taken<'_>) -> Result<(), StoreError> {
            $store.taken(cx, each)
        }
        fn networks(&mut $me, cx: &Context) -> Result<Vec<crate::alloc::NetworkRanges>, StoreError> {
            Store::networks(&mut *$store, cx)
        }
        fn history(
            &mut $me,
            cx: &Context,
            wanted: &mut crate::store::Wanted<'_>,
        ) -> Result<Vec<crate::model::Event>, StoreError> {
            $store.history(cx, wanted)
        }
        fn problems(
            &mut $me,
            cx: &Context,
            each: &mut dyn FnMut(crate::store::Problem),
        ) -> Result<(), StoreError> {
            $store.problems(cx, each)
        }
        fn repair(&mut $me, cx: &Context) -> Result<crate::store::Repair, StoreError> {
            $store.repair(cx)
        }
        fn counters(&mut $me, cx: &Context) -> Result<Vec<crate::model::Counter>, StoreError> {
            $store.counters(cx)
        }
    };
}
pub(super) use tells;
