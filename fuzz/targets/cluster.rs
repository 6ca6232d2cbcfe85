//! Fuzzes the handling of cluster responses. The first byte of the input selects etcd (`e`) or Consul. Every
//! line after the first is a response. Both an ADD and a `list` receive these responses.
#![no_main]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex, OnceLock};

use libfuzzer_sys::fuzz_target;
use serde_json::json;
use sublet_fuzz::{Lab, run};

type Answers = Arc<Mutex<Vec<Vec<u8>>>>;

/// Starts a server that answers each request with the last response left in the list, and then closes the
/// connection.
fn server() -> &'static (u16, Answers) {
    static SERVER: OnceLock<(u16, Answers)> = OnceLock::new();
    SERVER.get_or_init(|| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = listener.local_addr().expect("it listens").port();
        let answers: Answers = Arc::default();
        let shared = answers.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { continue };
                let mut request = [0; 4096];
                if stream.read(&mut request).is_ok() {
                    let next = shared.lock().map(|mut all| all.pop());
                    let body = next.ok().flatten().unwrap_or_default();
                    let head = format!(
                        "HTTP/1.1 200 OK\r\nX-Consul-Index: 7\r\nContent-Length: {}\r\n\r\n",
                        body.len()
                    );
                    let _ = stream.write_all(&[head.as_bytes(), &body].concat());
                }
            }
        });
        (port, answers)
    })
}

fuzz_target!(|input: &[u8]| {
    let (port, answers) = server();
    let kind = if input.first() == Some(&b'e') { "etcd" } else { "consul" };
    let lines = input.split(|b| *b == b'\n').skip(1);
    let bodies: Vec<Vec<u8>> = lines.map(<[u8]>::to_vec).collect();
    let endpoints = [format!("http://127.0.0.1:{port}")];
    let store = json!({ kind: { "endpoints": endpoints, "timeout": "200ms" } });
    let lab = Lab::new();
    let mut conf = lab.conf();
    conf["ipam"]["store"] = store.clone();
    for add in [true, false] {
        if let Ok(mut all) = answers.lock() {
            all.clone_from(&bodies);
        }
        if add {
            lab.plugin("ADD", &[], conf.to_string().as_bytes());
        } else {
            run(["sublet", "list", "--store", &store.to_string()].map(Into::into).into());
        }
    }
});
