//! Tests on real etcd and Consul servers. `scripts/test.sh --fast` skips every test with `peers` in its path,
//! and therefore all of these tests.

use super::{contract, delegate, fake_cluster, history_test};

mod killed_clients_test;
mod linearizability_test;
mod round_trips_test;
mod servers;
mod servers_test;
mod unavailable_server_test;
