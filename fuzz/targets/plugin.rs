//! Fuzzes the plugin. The first line of the input is `CNI_ARGS`, and the rest is a network configuration. The
//! plugin must not use files outside the test's folder.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use sublet_fuzz::Lab;

fuzz_target!(|input: &[u8]| {
    let lab = Lab::new();
    let (args, stdin) = input.split_at(input.iter().position(|b| *b == b'\n').unwrap_or_default());
    let args = String::from_utf8_lossy(args);
    // The plugin ignores the case of keys, so compare the keys in the same way.
    let Ok(mut conf) = serde_json::from_str::<Value>(&String::from_utf8_lossy(stdin)) else { return };
    if let Some(conf) = conf.as_object_mut() {
        // Remove keys that would let the plugin contact a server or write outside the test's folder.
        let is = |key: &str, name: &str| key.eq_ignore_ascii_case(name);
        conf.retain(|key, _| !key.to_lowercase().starts_with("consul"));
        for (_, ipam) in conf.iter_mut().filter(|(key, _)| is(key, "ipam")) {
            let Some(ipam) = ipam.as_object_mut() else { continue };
            let is_host_local = ipam.get("type").is_some_and(|name| name == "host-local");
            ipam.retain(|key, _| {
                !["store", "dataDir", "type"].iter().any(|name| is(key, name))
                    && !key.to_lowercase().starts_with("consul")
            });
            ipam.insert("dataDir".to_owned(), lab.conf()["ipam"]["dataDir"].clone());
            let name = if is_host_local { "host-local" } else { "sublet" };
            ipam.insert("type".to_owned(), name.into());
        }
    }
    let conf = conf.to_string();
    let args = [("CNI_ARGS", &*args)];
    for command in ["ADD", "CHECK", "STATUS", "GC", "DEL", "VERSION"] {
        lab.plugin(command, &args, conf.as_bytes());
    }
});
