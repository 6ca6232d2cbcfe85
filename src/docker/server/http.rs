//! Serves one HTTP/1.1 connection, for as long as dockerd keeps it open.
//!
//! This module limits the size of bodies, and detects when a whole response has been written to the kernel.
//! Invariant: until shutdown, the server never closes an idle connection. If dockerd sends a request on a
//! connection that has just been closed, it repeats the request with an empty body. A change to the store is
//! kept only if the last byte of its response has been written to the kernel.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, watch};

use super::worker::{Answer, PendingUndo, Queue};
use super::{LINGER, stopped};
use crate::docker::LARGEST_BODY;
use crate::sys::stream::{Stream, Watch};

/// The content type that dockerd accepts.
const MEDIA_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";

/// The maximum time for a body to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The path of dockerd's first request after it starts, or after it finds the plugin again.
const ACTIVATE: &str = "/Plugin.Activate";

/// A lower bound on the length of the head of an HTTP response, in bytes. A response counts as written only
/// after its body and this many bytes have been written.
const MIN_HEAD: usize = 64;

/// Serves one connection until it ends. Once `stop` is set, the connection is closed as soon as the current
/// request has been answered. `activated` is notified whenever dockerd activates the plugin on this
/// connection.
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    queue: Queue,
    timeout: Duration,
    mut stop: watch::Receiver<bool>,
    activated: Option<Arc<Notify>>,
) {
    let unsent = Unsent::default();
    let io = Stream::watched(stream, unsent.clone());
    let service = service_fn(|request: Request<Incoming>| {
        if let Some(activated) = activated.as_ref().filter(|_| request.uri().path() == ACTIVATE) {
            activated.notify_one();
        }
        let (queue, unsent) = (queue.clone(), unsent.clone());
        async move { Ok::<_, Infallible>(respond(request, &queue, timeout, &unsent).await) }
    });
    // A client that has closed only its sending side still gets its response. If the client is gone, writing
    // the response fails.
    let mut http = hyper::server::conn::http1::Builder::new();
    let connection = http.half_close(true).serve_connection(io, service);
    let mut connection = pin!(connection);
    tokio::select! {
        // If the connection has failed, dropping `unsent` undoes the changes whose responses were not
        // delivered.
        _ = connection.as_mut() => {}
        () = stopped(&mut stop) => {
            // If another request has already arrived on the connection, handle it first.
            if tokio::time::timeout(LINGER, connection.as_mut()).await.is_ok() {
                return;
            }
            connection.as_mut().graceful_shutdown();
            let _ = connection.as_mut().await;
        }
    }
}

async fn respond(
    request: Request<Incoming>,
    queue: &Queue,
    timeout: Duration,
    unsent: &Unsent,
) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    let answer = match read(request.into_body()).await {
        Ok(body) => queue.ask(path, body, timeout).await,
        Err((status, text)) => queue.failed(status, text),
    };
    let Answer { status, body, undo } = answer;
    unsent.lock().push((body.len() + MIN_HEAD, undo));
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    response
}

/// Reads a whole body. An error consists of the HTTP status and the reason.
async fn read(body: Incoming) -> Result<Vec<u8>, (u16, &'static str)> {
    const LARGE: (u16, &str) = (413, "the request body is larger than 1 MiB");
    if body.size_hint().lower() > LARGEST_BODY as u64 {
        return Err(LARGE);
    }
    let whole = Limited::new(body, LARGEST_BODY).collect();
    match tokio::time::timeout(BODY_TIMEOUT, whole).await {
        Ok(Ok(body)) => Ok(body.to_bytes().to_vec()),
        Ok(Err(e)) if e.is::<LengthLimitError>() => Err(LARGE),
        Ok(Err(_)) => Err((400, "the request body is shorter than its Content-Length")),
        Err(_) => Err((408, "the request body did not arrive in time")),
    }
}

/// The responses that have not yet been fully written to the kernel, in sending order, each with the number
/// of bytes still to be written. If the connection ends, the remaining entries are dropped, which undoes
/// their changes.
#[derive(Clone, Default)]
struct Unsent(Arc<Mutex<Vec<(usize, PendingUndo)>>>);

impl Unsent {
    fn lock(&self) -> MutexGuard<'_, Vec<(usize, PendingUndo)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch for Unsent {
    fn written(&self, mut bytes: usize) {
        for (left, _) in self.lock().iter_mut() {
            let some = bytes.min(*left);
            *left -= some;
            bytes -= some;
        }
    }

    fn flushed(&self) {
        self.lock().retain_mut(|(left, undo)| {
            if *left == 0 {
                undo.confirm();
            }
            *left > 0
        });
    }
}
