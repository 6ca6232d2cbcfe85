//! Lists the containers of a container runtime, including stopped containers.
//!
//! Docker is queried through its socket (`GET /containers/json?all=1`, API v1.24 and later), containerd
//! through its command `ctr`, and other CRI runtimes through `crictl`.
//! Invariant: an incomplete response is an error.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::stale::Listing;

/// The default socket of Docker.
pub const DOCKER: &str = "/var/run/docker.sock";
/// The default socket of containerd.
pub const CONTAINERD: &str = "/run/containerd/containerd.sock";

/// The maximum time to wait for a response.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The maximum length of a response, in bytes. This is enough for several hundred thousand containers.
const LONGEST: u64 = 1 << 28;

/// Returns all containers of the Docker daemon that listens on a socket.
pub fn docker(socket: &Path) -> Result<Listing> {
    let name = || format!("docker at {}", socket.display());
    let answer = ask(socket, "/containers/json?all=1", TIMEOUT);
    let answer = answer.with_context(|| format!("cannot query {}", name()))?;
    let containers =
        containers(&answer).with_context(|| format!("cannot list the containers of {}", name()))?;
    Ok(Listing { runtime: "docker".to_owned(), containers })
}

/// Sends a request to dockerd's API. Returns the whole response, including its head. Each read or write waits
/// for at most `timeout`.
pub fn ask(socket: &Path, path: &str, timeout: Duration) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    // With HTTP 1.0, the response is not divided into chunks, and it ends when the connection is closed.
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: docker\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer)?;
    Ok(answer)
}

/// Parses the JSON in an HTTP response, if the response is complete and its status is 200.
pub fn read(answer: &[u8]) -> Result<Value> {
    let end = answer
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .context("the response is not valid HTTP")?;
    let head = String::from_utf8_lossy(&answer[..end]);
    let body = answer.get(end + 4..).unwrap_or_default();
    let mut lines = head.lines();
    let (_, status) = lines.next().unwrap_or_default().split_once(' ').unwrap_or_default();
    if status.split(' ').next() != Some("200") {
        bail!("the response has status {status}: {}", String::from_utf8_lossy(body));
    }
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        if name.eq_ignore_ascii_case("Content-Length") && value != body.len().to_string() {
            bail!("the response is truncated: received {} of {value} bytes", body.len());
        }
        if name.eq_ignore_ascii_case("Transfer-Encoding") {
            bail!("the response has the encoding {value}, which HTTP/1.0 does not allow");
        }
    }
    serde_json::from_slice(body).context("the response is not valid JSON")
}

/// Returns the container IDs in an HTTP response.
fn containers(answer: &[u8]) -> Result<BTreeSet<String>> {
    let Value::Array(all) = read(answer)? else {
        bail!("the response is not a list of containers")
    };
    let id = |container: &Value| container["Id"].as_str().map(str::to_owned);
    all.iter().map(|c| id(c).context("the response contains a container without `Id`")).collect()
}

/// Returns the containers in all namespaces of the containerd that listens on a socket.
pub fn containerd(socket: &Path, ctr: &str) -> Result<Listing> {
    let mut containers = BTreeSet::new();
    for namespace in lines(ctr, socket, &["namespaces", "list", "-q"])? {
        for id in lines(ctr, socket, &["-n", &namespace, "containers", "list", "-q"])? {
            // If nerdctl created the container, CNI gets a container ID that begins with the containerd
            // namespace.
            containers.insert(format!("{namespace}-{id}"));
            containers.insert(id);
        }
    }
    Ok(Listing { runtime: "containerd".to_owned(), containers })
}

/// Returns all pod sandboxes of the CRI runtime for which `crictl` is configured, whether they are ready or
/// not. The ID of a sandbox is the container ID that CNI gets.
pub fn crictl(crictl: &str) -> Result<Listing> {
    let timeout = format!("--timeout={}s", TIMEOUT.as_secs());
    let answer = output(crictl, Command::new(crictl).args([&timeout, "pods", "-o", "json"]))?;
    let containers = sandboxes(&answer)
        .with_context(|| format!("cannot list the pod sandboxes with {crictl}"))?;
    Ok(Listing { runtime: "the CRI runtime".to_owned(), containers })
}

/// Returns the IDs in the output of `crictl pods -o json`.
fn sandboxes(answer: &str) -> Result<BTreeSet<String>> {
    let answer: Value = serde_json::from_str(answer).context("the output is not valid JSON")?;
    let Some(all) = answer["items"].as_array() else {
        bail!("the output is not a list of sandboxes")
    };
    let id = |sandbox: &Value| sandbox["id"].as_str().map(str::to_owned);
    all.iter()
        .map(|sandbox| id(sandbox).context("the output contains a sandbox without `id`"))
        .collect()
}

fn lines(ctr: &str, socket: &Path, args: &[&str]) -> Result<Vec<String>> {
    let seconds = format!("{}s", TIMEOUT.as_secs());
    let mut command = Command::new(ctr);
    command.arg("--address").arg(socket);
    command.args(["--timeout", &seconds, "--connect-timeout", &seconds]).args(args);
    let text = output(ctr, &mut command)?;
    Ok(text.lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned).collect())
}

/// Runs a command and returns its output. Fails if the command fails.
fn output(program: &str, command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().last().unwrap_or_default();
        bail!("{program} failed: {said}");
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("the output of {program} is not valid UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_incomplete_answer_is_an_error() {
        let of = |text: &str| containers(text.as_bytes());
        let ok = "HTTP/1.0 200 OK\r\nContent-Length: 25\r\n\r\n[{\"Id\":\"a\"}, {\"Id\":\"b\"} ]";
        assert_eq!(of(ok).unwrap(), ["a", "b"].map(str::to_owned).into());
        assert_eq!(of("HTTP/1.0 200 OK\r\n\r\n[]").unwrap(), BTreeSet::new());
        for wrong in [
            "",
            "HTTP/1.0 200 OK\r\n",
            "HTTP/1.0 500 Internal Server Error\r\n\r\n[]",
            "HTTP/1.0 200 OK\r\n\r\n",
            "HTTP/1.0 200 OK\r\n\r\n{\"message\":\"no\"}",
            "HTTP/1.0 200 OK\r\n\r\n[{\"Id\":\"a\"},",
            "HTTP/1.0 200 OK\r\n\r\n[{\"Id\":\"a\"},{}]",
            "HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\n[]",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n0\r\n\r\n",
        ] {
            assert!(of(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_runtime_that_does_not_answer_is_an_error() {
        assert!(docker(Path::new("/nowhere/docker.sock")).is_err());
        assert!(containerd(Path::new("/nowhere/c.sock"), "/nowhere/ctr").is_err());
        assert!(containerd(Path::new("/nowhere/c.sock"), "false").is_err());
        assert!(crictl("/nowhere/crictl").is_err() && crictl("false").is_err());
    }

    #[test]
    fn sandboxes_are_listed_whatever_their_state() {
        let two = r#"{"items": [{"id": "a", "state": "SANDBOX_READY"}, {"id": "b", "state": "SANDBOX_NOTREADY"}]}"#;
        assert_eq!(sandboxes(two).unwrap(), ["a", "b"].map(str::to_owned).into());
        assert_eq!(sandboxes(r#"{"items": []}"#).unwrap(), BTreeSet::new());
        for wrong in
            ["", "[]", "{}", r#"{"items": [{"id": "a"}, {}]}"#, r#"{"items": [{"id": "a"}"#]
        {
            assert!(sandboxes(wrong).is_err(), "{wrong:?}");
        }
    }
}
