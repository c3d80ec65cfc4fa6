//! Reads the rest of a body that nobody wants, so that a client that is still sending it sees the
//! answer rather than a broken connection.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Error,
    body::{Body, Bytes},
    extract::Request,
    http::header,
    response::Response,
};
use futures::StreamExt as _;
use hyper::body::{Body as _, Frame, SizeHint};

/// How long the client may take.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The response of `serve` to a request. If it is refused, up to `limit` bytes of the body are read
/// and discarded first; not for a client that waits to be told to send it.
pub async fn refused(
    request: Request,
    limit: usize,
    serve: impl AsyncFnOnce(Request) -> Response,
) -> Response {
    if request.headers().contains_key(header::EXPECT) {
        return serve(request).await;
    }
    let (head, body) = request.into_parts();
    let kept = Lent(Arc::new(Mutex::new(body)));
    let lent = Body::new(kept.clone());
    let response = serve(Request::from_parts(head, lent)).await;
    if response.status().is_client_error() && !kept.is_end_stream() {
        _ = tokio::time::timeout(TIMEOUT, discard(kept, limit)).await;
    }
    response
}

async fn discard(body: Lent, limit: usize) {
    let (mut stream, mut left) = (Body::new(body).into_data_stream(), limit);
    while let Some(Ok(chunk)) = stream.next().await
        && chunk.len() < left
    {
        left -= chunk.len();
    }
}

/// A body that is still there after its reader has given it up.
#[derive(Clone)]
struct Lent(Arc<Mutex<Body>>);

impl Lent {
    fn body(&self) -> MutexGuard<'_, Body> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl hyper::body::Body for Lent {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        Pin::new(&mut *self.body()).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body().size_hint()
    }
}
