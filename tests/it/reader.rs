//! Parses sublet's results with independent code: the crate `cni-plugin`, which supports the CNI
//! specification up to 1.0.0.

use std::net::IpAddr;

use cni_plugin::config::NetworkConfig;
use cni_plugin::reply::{ErrorReply, IpamSuccessReply};
use serde_json::json;

use crate::lab::{Call, Lab, conf};

#[test]
fn an_answer_is_read_back_whole() {
    let lab = Lab::new();
    let config = json!({
        "cniVersion": "1.0.0",
        "name": "net",
        "type": "bridge",
        "ipam": {
            "type": "sublet",
            "ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "2001:db8:1::/64"}]],
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.2.9"}],
            "dns": {"nameservers": ["192.0.2.3"], "search": ["a.example"]},
            "dataDir": lab.data_dir(),
        },
    });
    // The crate must accept the configuration that sublet gets.
    let asked: NetworkConfig = serde_json::from_value(config.clone()).unwrap();
    assert_eq!(asked.name, "net");

    let ran = Call::cni("ADD", "one", &config).run();
    ran.ok();
    let reply: IpamSuccessReply = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(reply.cni_version, asked.cni_version);
    let ips: Vec<String> = reply.ips.iter().map(|ip| ip.address.to_string()).collect();
    assert_eq!(ips, ["10.1.2.2/24", "2001:db8:1::2/64"]);
    let gateways: Vec<_> = reply.ips.iter().map(|ip| ip.gateway).collect();
    let parse = |text: &str| text.parse::<IpAddr>().ok();
    assert_eq!(gateways, [parse("10.1.2.1"), parse("2001:db8:1::1")]);
    assert!(reply.ips.iter().all(|ip| ip.interface.is_none()));
    assert_eq!(reply.routes.len(), 1);
    assert_eq!(reply.routes[0].dst.to_string(), "0.0.0.0/0");
    assert_eq!(reply.routes[0].gw, parse("10.1.2.9"));
    assert_eq!(reply.dns.search, ["a.example"]);
    // The crate collects unknown fields in `specific`.
    assert!(reply.specific.is_empty(), "{:?}", reply.specific);
}

#[test]
fn an_error_is_read_back_whole() {
    let lab = Lab::new();
    let config = conf(&lab.data_dir(), "10.0.0.0/30");
    Call::cni("ADD", "one", &config).run().ok();
    let second = Call::cni("ADD", "two", &config).run();
    second.check(!second.succeeded(), "there is no other");
    // The crate borrows the texts from the input, so it cannot decode escape sequences. sublet's messages
    // contain none.
    let error: ErrorReply<'_> = serde_json::from_str(&second.stdout).unwrap();
    assert_eq!(error.code, 100);
    assert_eq!(error.cni_version.to_string(), "1.0.0");
    assert!(error.msg.contains("no IP addresses available in range set"));
    assert!(error.msg.contains("network mynet") && error.msg.contains("`sublet gc --dry-run`"));
}
