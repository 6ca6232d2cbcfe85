//! Adapts a tokio stream for hyper, and counts the bytes that have reached the kernel.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::rt::ReadBufCursor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Receives notifications about the bytes that are written to a [`Stream`].
pub trait Watch {
    /// Called after each write, with the number of bytes written.
    fn written(&self, bytes: usize);
    /// Called after each flush, when the kernel has all bytes written so far.
    fn flushed(&self);
}

/// Ignores all notifications.
impl Watch for () {
    fn written(&self, _: usize) {}
    fn flushed(&self) {}
}

/// A stream that hyper can use, and the [`Watch`] that the stream notifies.
pub struct Stream<S, W = ()> {
    stream: S,
    watch: W,
}

impl<S> Stream<S> {
    /// Makes a stream without a watch.
    pub fn plain(stream: S) -> Stream<S> {
        Stream { stream, watch: () }
    }
}

impl<S, W: Watch> Stream<S, W> {
    /// Makes a stream with a watch.
    pub fn watched(stream: S, watch: W) -> Stream<S, W> {
        Stream { stream, watch }
    }
}

impl<S: AsyncRead + Unpin, W: Unpin> hyper::rt::Read for Stream<S, W> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut bytes = [0; 4096];
        let room = buf.remaining().min(bytes.len());
        let mut read = ReadBuf::new(&mut bytes[..room]);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
        buf.put_slice(read.filled());
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin, W: Watch + Unpin> hyper::rt::Write for Stream<S, W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.watch.written(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.watch.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
