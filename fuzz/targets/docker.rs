//! Fuzzes the Docker driver. The input is a list of requests, one per line. Each line contains a method and
//! an arbitrary body.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sublet::docker::{Driver, Settings, handle};
use sublet::sys::host;
use sublet_fuzz::{Lab, no_bug};

fuzz_target!(|requests: &str| {
    let lab = Lab::new();
    let driver = Driver { settings: Settings::default(), routes: Vec::new };
    let (mut store, cx) = (lab.open(), host::facts(&|_| None).context());
    let mut pool = String::new();
    for (method, body) in requests.lines().take(8).filter_map(|line| line.split_once(' ')) {
        // Replace `POOL` with the ID of the last pool, so that several requests can use the same pool.
        let body = body.replace("POOL", &pool);
        let path = format!("/IpamDriver.{method}");
        let reply = handle(&driver, &mut *store, &cx, &path, body.as_bytes());
        let answer: Result<serde_json::Value, _> = serde_json::from_str(&reply.body);
        no_bug(&reply.body);
        let answer = answer.unwrap_or_else(|_| std::process::abort());
        if let Some(id) = answer["PoolID"].as_str() {
            id.clone_into(&mut pool);
        }
    }
    lab.command(&["list", "-o", "json"]);
    lab.command(&["doctor"]);
});
