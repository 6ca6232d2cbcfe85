//! Tests subletd on TCP, with the `.spec` and `.json` files that dockerd needs for it. Also tests the flags
//! and variables of subletd, gipam and kontena-ipam, and the import of gipam's lease file.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::daemon::{Daemon, SUBLETD, exists, subletd, tcp, until};
use crate::lab::{Call, Lab, signal};

fn refused(args: &[&str], env: &[(&str, &str)]) -> String {
    let lab = Lab::new();
    let named = args.contains(&"--store") || env.iter().any(|(name, _)| *name == "ETCD_ENDPOINT");
    let store = (!named).then(|| ["--store".into(), lab.join("s.redb")]);
    let output = subletd(args)
        .envs(env.iter().copied())
        .args(store.iter().flatten())
        .arg("--socket")
        .arg(lab.join("x.sock"))
        .output()
        .unwrap();
    assert!(!output.status.success(), "{args:?} {env:?}");
    assert_eq!(fs::read_dir(lab.path()).unwrap().count(), 0, "{args:?} left something");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_spec_file_names_the_address() {
    let lab = Lab::new();
    let spec = lab.join("plugins/x.spec");
    let mut child = subletd(&["--address", "127.0.0.1:0"])
        .arg("--spec")
        .arg(&spec)
        .arg("--store")
        .arg(lab.join("s.redb"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("the spec file", || exists(&spec));
    let text = fs::read_to_string(&spec).unwrap();
    let at = text.trim().strip_prefix("tcp://").unwrap();
    assert_eq!(tcp(at).call("/Plugin.Activate", "").0, 200);
    signal(&child, "TERM");
    assert!(child.wait().unwrap().success());
    assert!(!exists(&spec));
}

#[test]
fn plain_tcp_is_for_this_host() {
    let text = refused(&["--address", "0.0.0.0:0"], &[]);
    assert!(text.contains("--insecure") && text.contains("--tls-cert"), "{text}");
}

fn first_pool(daemon: &Daemon, v6: bool) -> String {
    let spaces = daemon.call("/IpamDriver.GetDefaultAddressSpaces", "").1;
    let body = json!({"AddressSpace": spaces["LocalDefaultAddressSpace"], "V6": v6}).to_string();
    daemon.call("/IpamDriver.RequestPool", &body).1["Pool"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn three_dialects_of_flags() {
    for (args, env, v4, v6) in [
        (vec![], vec![], "10.80.0.0/24", ""),
        (
            vec!["--v4", "10.7.0.0/16", "--v4-block", "20"],
            vec![("SUBLET_V4", "1.0.0.0/8")],
            "10.7.0.0/20",
            "",
        ),
        (
            vec![],
            vec![("SUBLET_V4", "10.8.0.0/16,10.9.0.0/16"), ("GIPAM_V4", "1.0.0.0/8")],
            "10.8.0.0/24",
            "",
        ),
        // The flags and variables of gipam.
        (
            vec!["-v4", "192.168.0.0/16", "-v4ab=25", "-v6", "2001:db8::/54"],
            vec![],
            "192.168.0.0/25",
            "2001:db8::/64",
        ),
        (
            vec![],
            vec![
                ("GIPAM_V4", "10.1.0.0/16"),
                ("GIPAM_V4AB", "26"),
                ("GIPAM_V6", "2001:db8::/32"),
                ("GIPAM_V6AB", "56"),
            ],
            "10.1.0.0/26",
            "2001:db8::/56",
        ),
        // The variables of kontena-ipam.
        (
            vec![],
            vec![
                ("KONTENA_IPAM_SUPERNET", "10.64.0.0/12"),
                ("KONTENA_IPAM_SUBNET_LENGTH", "22"),
                ("LOG_LEVEL", "0"),
            ],
            "10.64.0.0/22",
            "",
        ),
    ] {
        let daemon = Daemon::with(&args, &env);
        assert_eq!(first_pool(&daemon, false), v4, "{args:?} {env:?}");
        assert_eq!(first_pool(&daemon, true), v6, "{args:?} {env:?}");
    }
    let daemon = Daemon::with(&["--address-spaces", "kontenalocal,kontenaglobal"], &[]);
    let spaces = daemon.call("/IpamDriver.GetDefaultAddressSpaces", "").1;
    assert_eq!(spaces["GlobalDefaultAddressSpace"], "kontenaglobal");
}

/// Invalid settings must be reported before anything is created. For example, subletd does not support
/// kontena-ipam's policies 1 to 3.
#[test]
fn what_makes_no_sense_is_said() {
    for (args, env, word) in [
        (vec![], vec![("KONTENA_IPAM_SUPERNET", "foo")], "KONTENA_IPAM_SUPERNET"),
        (vec![], vec![("KONTENA_IPAM_SUPERNET", "2001:db8::/48")], "family"),
        (vec![], vec![("KONTENA_IPAM_SUBNET_LENGTH", "x")], "KONTENA_IPAM_SUBNET_LENGTH"),
        (vec![], vec![("KONTENA_IPAM_SUBNET_LENGTH", "-1")], "KONTENA_IPAM_SUBNET_LENGTH"),
        (vec![], vec![("KONTENA_IPAM_SUBNET_LENGTH", "33")], "12 to 32"),
        (vec!["--v4", "10.0.0.1/8"], vec![], "10.0.0.0/8"),
        (vec!["--v4", "10.0.0.0/24", "--v4-block", "16"], vec![], "24 to 32"),
        (vec!["--address-spaces", "a,a"], vec![], "two different names"),
        (vec!["--log-level", "loud"], vec![], "loud"),
        (vec!["--timeout", "soon"], vec![], "30s"),
        (vec!["--tls-cert", "x"], vec![], "--tls-key"),
        (vec![], vec![("ETCD_ENDPOINT", "localhost:2379")], "http://HOST:PORT"),
        (
            vec![],
            vec![("ETCD_ENDPOINT", "http://localhost:2379"), ("IPAM_DB_PATH", "/x")],
            "different stores",
        ),
        (vec!["--store", r#"{"etcd": 1}"#], vec![], "--store"),
        (vec!["--store", r#"{"etcd": {}}"#, "--node", " "], vec![], "a node needs a name"),
    ] {
        let text = refused(&args, &env);
        assert!(text.contains(word), "{args:?} {env:?}: {text}");
    }
}

const GIPAM: &str = r#"{"v6":"2001:db8::/56","v6ab":64,"v6idx":1,"v4":"192.168.0.0/16","v4ab":24,"v4idx":1,
 "allocated":[{"id":"a1b2c3d4e5f6g7h8","v":4,"pool":"192.168.0.0/24","idx":4,
   "allocated":["192.168.0.1","192.168.0.3"],"free":["192.168.0.2"]},
  {"id":"Zz9","v":6,"pool":"2001:db8::/64","idx":2,"allocated":["2001:db8::1"]}]}"#;

fn goes_on(daemon: &Daemon) {
    let body =
        |address: &str| json!({"PoolID": "a1b2c3d4e5f6g7h8", "Address": address}).to_string();
    let mut client = daemon.client();
    let ask = "/IpamDriver.RequestAddress";
    assert_eq!(client.call(ask, &body("192.168.0.3")).1["Error"], "Address already in use");
    assert_eq!(client.call(ask, &body("")).1["Address"], "192.168.0.2/24");
    assert_eq!(client.call(ask, &body("")).1["Address"], "192.168.0.4/24");
    for path in ["/IpamDriver.ReleaseAddress", "/IpamDriver.ReleasePool"] {
        assert_eq!(client.call(path, &body("192.168.0.1")), (200, json!({})));
    }
    assert_eq!(client.call(ask, r#"{"PoolID":"Zz9"}"#).1["Address"], "2001:db8::2/64");
    assert_eq!(daemon.leases(), ["2001:db8::1", "2001:db8::2"]);
}

#[test]
fn gipams_file_that_cannot_be_looked_at_is_not_taken_for_absent() {
    let lab = Lab::new();
    let file = lab.join("leases.json");
    std::os::unix::fs::symlink(&file, &file).unwrap();
    let text = |name: &str| lab.join(name).display().to_string();
    // If subletd starts although it cannot read gipam's file, `timeout` ends it.
    let call = Call::new("timeout").args(&["60", SUBLETD, "-file", &text("leases.json")]);
    let answer = call.args(&["--socket", &text("s"), "--store", &text("store")]).run();
    assert!(answer.code == Some(1) && answer.stderr.contains("gipam's"), "{answer:?}");
    assert!(!exists(&lab.join("store")));
}

/// With gipam's flag `-file`, subletd must import gipam's lease file once, and must allocate pools from
/// gipam's main pools.
#[test]
fn gipams_file_is_taken_over_at_the_start() {
    let lab = Lab::new();
    let file = lab.join("leases.json");
    fs::write(&file, GIPAM).unwrap();
    let name = file.display().to_string();
    let mut daemon = Daemon::with(&["-file", &name], &[]);
    assert!(!exists(&file) && exists(&lab.join("leases.json.taken-over")));
    goes_on(&daemon);
    // The file must not be imported again. Otherwise, addresses that were released after the import would be
    // leased again.
    daemon.terminate();
    daemon.spawn();
    assert_eq!(daemon.leases().len(), 2);
    assert_eq!(first_pool(&daemon, false), "192.168.0.0/24");
    assert_eq!(first_pool(&daemon, true), "2001:db8:0:1::/64");
}

#[test]
fn gipams_file_is_imported() {
    let daemon = Daemon::start();
    let file = daemon.lab.join("leases.json");
    fs::write(&file, GIPAM).unwrap();
    let import = || {
        crate::lab::Call::sublet()
            .arg("import")
            .arg("gipam")
            .arg(&file.display().to_string())
            .arg("--address-space")
            .arg("L")
            .arg("--store")
            .arg(&daemon.store().display().to_string())
            .run()
    };
    for _ in 0..2 {
        let answer = import();
        assert_eq!(answer.code, Some(0), "{answer:?}");
    }
    goes_on(&daemon);
    fs::write(&file, GIPAM.replace("192.168.0.3", "10.0.0.1")).unwrap();
    let answer = import();
    assert_ne!(answer.code, Some(0));
    assert_eq!(daemon.leases().len(), 2);
}

/// Tests that need openssl and curl.
mod peers {
    use super::*;

    /// Tests TLS with keys and certificates that openssl makes. subletd must reject a client without a
    /// certificate.
    #[test]
    fn tls_asks_for_a_certificate() {
        let lab = Lab::new();
        let script = "set -e; cd \"$1\"
            new='openssl req -newkey rsa:2048 -nodes -subj /CN=x'
            $new -x509 -keyout ca.key -out ca.pem -days 2
            for who in server client; do
                $new -keyout $who.key -out $who.csr
                echo subjectAltName=IP:127.0.0.1 > $who.ext
                openssl x509 -req -in $who.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \\
                    -extfile $who.ext -out $who.pem
            done";
        let made = Command::new("sh").args(["-c", script, "sh"]).arg(lab.path()).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let file = |name: &str| lab.join(name).display().to_string();
        let mut child = subletd(&["--address", "127.0.0.1:0", "--spec", &file("x.spec")])
            .args(["--tls-cert", &file("server.pem"), "--tls-key", &file("server.key")])
            .args(["--tls-ca", &file("ca.pem"), "--store", &file("s.redb")])
            .args([
                "--tls-client-cert",
                &file("client.pem"),
                "--tls-client-key",
                &file("client.key"),
            ])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        until("the json file", || exists(&lab.join("x.json")));
        let spec: Value =
            serde_json::from_str(&fs::read_to_string(lab.join("x.json")).unwrap()).unwrap();
        assert_eq!(spec["Name"], "x");
        let url = format!("{}/Plugin.Activate", spec["Addr"].as_str().unwrap());
        let named = |key: &str| spec["TLSConfig"][key].as_str().unwrap().to_owned();
        let get = |client: bool| {
            let mut curl = Command::new("curl");
            curl.args(["-s", "--max-time", "20", "-X", "POST", &url, "--cacert", &named("CAFile")]);
            if client {
                curl.args(["--cert", &named("CertFile"), "--key", &named("KeyFile")]);
            }
            let output = curl.output().expect("curl");
            (output.status.success(), String::from_utf8(output.stdout).unwrap())
        };
        assert_eq!(get(true), (true, r#"{"Implements":["IpamDriver"]}"#.to_owned()));
        assert!(!get(false).0, "without a certificate");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
