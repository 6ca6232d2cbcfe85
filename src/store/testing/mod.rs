//! The tests of all stores: the contract, the model in memory, the fake cluster, and real servers.

mod boot_test;
mod cluster_test;
mod contract;
mod copy_test;
mod delegate;
mod edge_test;
mod fake_cluster;
mod history_test;
mod legacy_keys_test;
mod linearizability_test;
mod malformed_response_test;
mod memory;
mod model_test;
mod node_test;
mod operator_test;
mod pool_cases;
mod round_trips_test;
mod servers;
mod servers_test;
mod unavailable_server_test;
