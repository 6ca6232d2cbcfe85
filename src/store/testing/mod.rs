//! The tests of all stores: the contract, the in-memory model, the fake cluster, and real servers.

mod boot_files_test;
mod cluster_test;
mod contract;
mod copy_test;
mod creation_test;
mod delegate;
mod draining_cases;
mod edge_test;
mod fake_cluster;
mod history_test;
mod home_test;
mod host;
mod legacy_keys_test;
mod lock_test;
mod malformed_response_test;
mod memory;
mod model_test;
mod named_cases;
mod node_test;
mod operator_test;
mod peers;
mod policy_test;
mod pool_cases;
mod pool_races_test;
mod power_test;
mod readers_test;
mod records;
mod sim;
mod takeover_test;
mod watched;

/// Returns whether the tests were started by `scripts/test.sh --long`. They may then take minutes.
#[expect(clippy::disallowed_methods, reason = "a test's own setting")]
fn long() -> bool {
    std::env::var_os("SUBLET_LONG").is_some()
}
