//! A stream that fails when its client takes too long.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::{Client, HEAD_TIMEOUT, RESPONSE_TIMEOUT, WRITE_TIMEOUT};

/// A stream that fails with `TimedOut` when the client takes longer than [`HEAD_TIMEOUT`] for a
/// request's headers, from their first byte on, than [`WRITE_TIMEOUT`] to receive any of what is
/// written, or than [`RESPONSE_TIMEOUT`] to receive what is written until a flush succeeds.
pub(super) struct Timed<S> {
    stream: S,
    client: Client,
    head: Deadline,
    write: Deadline,
    response: Deadline,
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

impl<S> Timed<S> {
    pub(super) fn new(stream: S, client: Client) -> Self {
        Self {
            stream,
            client,
            head: Deadline::default(),
            write: Deadline::default(),
            response: Deadline::default(),
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
            self.response.poll(context, RESPONSE_TIMEOUT)?;
        } else {
            self.write = Deadline::default();
        }
        result
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
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

impl<S: AsyncWrite + Unpin> AsyncWrite for Timed<S> {
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
        self.response = Deadline::default();
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // By TLS, this writes, too.
        let result = Pin::new(&mut self.stream).poll_shutdown(context);
        self.written(result, context)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
        time::Instant,
    };

    use super::{super::connections::Connections, *};

    #[tokio::test]
    async fn a_client_that_takes_a_part_has_more_time_for_the_rest() {
        let (stream, mut reader) = duplex(4);
        let permit = Connections::new(1).admit().unwrap();
        let mut timed = Timed::new(stream, permit.client().clone());
        let mut context = Context::from_waker(Waker::noop());
        let mut write = |timed: &mut Timed<_>| Pin::new(timed).poll_write(&mut context, b"part");
        let end = |deadline: &Deadline| deadline.0.as_ref().map(|sleep| sleep.deadline());
        let mut ends = Vec::<Option<Instant>>::new();
        let mut last = None;
        for _ in 0..3 {
            assert!(write(&mut timed).is_ready());
            assert!(write(&mut timed).is_pending());
            ends.push(end(&timed.write));
            last = last.or(end(&timed.response));
            assert_eq!(end(&timed.response), last);
            reader.read_exact(&mut [0; 4]).await.unwrap();
        }
        assert!(ends.is_sorted_by(|one, next| one < next), "{ends:?}");
        assert!(timed.flush().await.is_ok());
        assert_eq!((end(&timed.write), end(&timed.response)), (None, None));
    }
}
