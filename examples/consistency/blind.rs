//! A control experiment: a proxy that removes the comparisons from every transaction, so that a later write
//! silently replaces an earlier one. In a history that was recorded through this proxy, `judge` must find
//! faults, which shows that it can detect them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use anyhow::{Context, Result};
use serde_json::Value;

pub fn serve(listen: SocketAddr, server: SocketAddr) -> Result<()> {
    for client in TcpListener::bind(listen)?.incoming() {
        let client = client?;
        thread::spawn(move || {
            // If a connection ends early, the client notices and handles the error, so ignore it here.
            let _ = forward(client, server);
        });
    }
    Ok(())
}

/// Forwards one request on a connection, and then closes the connection.
fn forward(mut client: TcpStream, server: SocketAddr) -> Result<()> {
    let mut from = BufReader::new(client.try_clone()?);
    let mut first = String::new();
    from.read_line(&mut first)?;
    let (mut headers, mut length) = (Vec::new(), 0);
    loop {
        let mut line = String::new();
        from.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').context("a header")?;
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse()?,
            "connection" => {}
            _ => headers.push(line),
        }
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    if let Ok(mut json) = serde_json::from_slice(&body) {
        blind(&mut json);
        body = json.to_string().into_bytes();
    }
    let mut to = TcpStream::connect(server)?;
    write!(to, "{first}{}", headers.concat())?;
    write!(to, "Connection: close\r\nContent-Length: {}\r\n\r\n", body.len())?;
    to.write_all(&body)?;
    let mut answer = Vec::new();
    to.read_to_end(&mut answer)?;
    client.write_all(&answer)?;
    Ok(())
}

fn blind(json: &mut Value) {
    match json {
        // For etcd, remove the comparisons of a transaction and execute its success branch unconditionally.
        Value::Object(transaction) => {
            transaction.remove("compare");
        }
        // For Consul, replace each operation that compares and writes with one that only writes.
        Value::Array(operations) => {
            for operation in operations.iter_mut() {
                let kv = &mut operation["KV"];
                let plain = match kv["Verb"].as_str() {
                    Some("cas") => "set",
                    Some("delete-cas") => "delete",
                    _ => continue,
                };
                kv["Verb"] = plain.into();
            }
            let compares =
                |o: &Value| o["KV"]["Verb"].as_str().is_some_and(|verb| verb.starts_with("check-"));
            // Remove operations that only compare, unless no other operation remains. A transaction needs at
            // least one operation.
            if operations.iter().any(|o| !compares(o) && o["KV"]["Verb"] != "get-tree") {
                operations.retain(|o| !compares(o));
            }
        }
        _ => {}
    }
}
