//! A TCP stream that fails when its client takes too long.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

use super::{Client, HEAD_TIMEOUT, WRITE_TIMEOUT};

/// A stream that fails with `TimedOut` when the client takes longer than [`HEAD_TIMEOUT`] for a
/// request's headers, from their first byte on, or than [`WRITE_TIMEOUT`] to receive what is
/// written until a flush succeeds.
pub(super) struct Timed {
    stream: TcpStream,
    client: Client,
    head: Deadline,
    write: Deadline,
}

#[derive(Default)]
struct Deadline(Option<Pin<Box<Sleep>>>);

impl Deadline {
    /// Starts it unless it runs, and fails once it is over.
    fn poll(&mut self, context: &mut Context<'_>, timeout: Duration) -> io::Result<()> {
        let running = self.0.get_or_insert_with(|| Box::pin(sleep(timeout)));
        match running.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl Timed {
    pub(super) fn new(stream: TcpStream, client: Client) -> Self {
        Self {
            stream,
            client,
            head: Deadline::default(),
            write: Deadline::default(),
        }
    }

    /// A write's result, or the error if it has been waiting for too long.
    fn written<T>(
        &mut self,
        result: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if result.is_pending() {
            self.write.poll(context, WRITE_TIMEOUT)?;
        }
        result
    }
}

impl AsyncRead for Timed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(context, buffer);
        if self.client.is_in_request() {
            self.head = Deadline::default();
        } else if buffer.filled().len() > before || self.head.0.is_some() {
            self.head.poll(context, HEAD_TIMEOUT)?;
        }
        result
    }
}

impl AsyncWrite for Timed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(result, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.written(result, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write = Deadline::default();
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
