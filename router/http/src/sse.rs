//! Server-sent events over running sequences. Headers go out with the first token or after the keep-alive time, so an
//! early error still has its real status. One body per request, polled by its connection; dropping it cancels.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    body::Body,
    http::{HeaderValue, Response, header},
};
use bytes::{BufMut, Bytes, BytesMut};
use futures_core::Stream;
use futures_util::{StreamExt, stream};
use serde::Serialize;
use tokio::time::{Duration, Instant, Sleep, sleep, timeout};

use crate::{
    error::{ApiError, Cause},
    headers::stream_headers,
    instruments::Tally,
    running::{Running, Step},
    state::AppState,
    submit::Submitted,
};

/// One chunk of a body holds at most about so much, so that one fast stream cannot keep a thread.
const MAX_CHUNK_BYTES: usize = 16 << 10;
const COMMENT: &[u8] = b":\n\n";

/// Writes the events of one route.
pub(crate) trait EventWriter: Send + Unpin + 'static {
    /// One token of sequence `index`.
    fn step(&mut self, index: usize, sequence: &Running, step: &Step, out: &mut BytesMut);

    /// After the last token of all.
    fn end(&mut self, sequences: &[Running], out: &mut BytesMut);

    /// In place of the rest.
    fn error(&mut self, error: &ApiError, sequences: &[Running], out: &mut BytesMut);
}

/// Appends one event.
pub(crate) fn event(out: &mut BytesMut, data: &impl Serialize) {
    out.put_slice(b"data: ");
    let length = out.len();
    if serde_json::to_writer((&mut *out).writer(), data).is_err() {
        // Only a map with odd keys could fail here, and there is none; half an event would be worse than none.
        out.truncate(length);
        out.put_slice(b"{}");
    }
    out.put_slice(b"\n\n");
}

/// Answers with a stream.
///
/// # Errors
/// A sequence failed before its first token.
pub(crate) async fn respond(
    state: &AppState,
    tally: Arc<Tally>,
    submitted: Submitted,
    writer: impl EventWriter,
) -> Result<Response<Body>, ApiError> {
    let keep_alive = state.settings.keep_alive;
    let mut events = Events::new(submitted.sequences, writer, tally, keep_alive);
    let head = match timeout(keep_alive, poll_fn(|cx| events.poll_chunk(cx))).await {
        Ok(Some(chunk)) => chunk?,
        Ok(None) => Bytes::new(),
        Err(_) => Bytes::from_static(COMMENT),
    };
    events.touch();
    let body = Body::from_stream(stream::iter([Ok::<_, Infallible>(head)]).chain(events));
    let mut response = Response::new(body);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream"),
    );
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    stream_headers(
        response.headers_mut(),
        &state.settings,
        submitted.characters,
    );
    Ok(response)
}

struct Events<W> {
    sequences: Vec<Running>,
    writer: W,
    tally: Arc<Tally>,
    out: BytesMut,
    failure: Option<ApiError>,
    is_done: bool,
    keep_alive: Duration,
    last_sent: Instant,
    /// Set anew only when it fires, not for each token.
    alarm: Pin<Box<Sleep>>,
}

impl<W: EventWriter> Events<W> {
    fn new(sequences: Vec<Running>, writer: W, tally: Arc<Tally>, keep_alive: Duration) -> Self {
        Self {
            sequences,
            writer,
            tally,
            out: BytesMut::new(),
            failure: None,
            is_done: false,
            keep_alive,
            last_sent: Instant::now(),
            alarm: Box::pin(sleep(keep_alive)),
        }
    }

    /// What can be sent now; an error comes after everything before it.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, ApiError>>> {
        if self.failure.is_none() && !self.is_done {
            self.fill(cx);
        }
        if !self.out.is_empty() {
            return Poll::Ready(Some(Ok(self.out.split().freeze())));
        }
        if let Some(error) = self.failure.take() {
            self.is_done = true;
            return Poll::Ready(Some(Err(error)));
        }
        if self.is_done {
            Poll::Ready(None)
        } else {
            Poll::Pending
        }
    }

    /// Writes all tokens that are there.
    fn fill(&mut self, cx: &mut Context<'_>) {
        let mut is_pending = false;
        for index in 0..self.sequences.len() {
            match self.drain(index, cx) {
                Ok(poll) => is_pending |= poll.is_pending(),
                Err(error) => return self.failure = Some(error),
            }
        }
        if !is_pending {
            self.writer.end(&self.sequences, &mut self.out);
            self.is_done = true;
            self.tally.succeed(
                &self
                    .sequences
                    .iter()
                    .map(Running::timings)
                    .collect::<Vec<_>>(),
            );
        }
    }

    /// Writes the tokens of one sequence; ready when it has ended.
    fn drain(&mut self, index: usize, cx: &mut Context<'_>) -> Result<Poll<()>, ApiError> {
        let Some(sequence) = self.sequences.get_mut(index) else {
            return Ok(Poll::Ready(()));
        };
        while self.out.len() < MAX_CHUNK_BYTES {
            match sequence.poll_step(cx) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(None) => return Ok(Poll::Ready(())),
                Poll::Ready(Some(step)) => {
                    let step = step.map_err(streaming)?;
                    self.writer.step(index, sequence, &step, &mut self.out);
                }
            }
        }
        cx.waker().wake_by_ref();
        Ok(Poll::Pending)
    }

    fn touch(&mut self) {
        self.last_sent = Instant::now();
    }

    fn error_event(&mut self, error: &ApiError) -> Bytes {
        self.tally.fail(error);
        self.writer.error(error, &self.sequences, &mut self.out);
        self.sequences.clear();
        self.out.split().freeze()
    }

    /// A comment, when the stream has been silent for the keep-alive time.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        while self.alarm.as_mut().poll(cx).is_ready() {
            let due = self.last_sent + self.keep_alive;
            let is_due = due <= Instant::now();
            if is_due {
                self.touch();
            }
            self.alarm.as_mut().reset(self.last_sent + self.keep_alive);
            if is_due {
                return Poll::Ready(Bytes::from_static(COMMENT));
            }
        }
        Poll::Pending
    }
}

impl<W: EventWriter> Stream for Events<W> {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let chunk = match this.poll_chunk(cx) {
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => return this.poll_silence(cx).map(|comment| Some(Ok(comment))),
            Poll::Ready(Some(Ok(chunk))) => chunk,
            Poll::Ready(Some(Err(error))) => this.error_event(&error),
        };
        this.touch();
        Poll::Ready(Some(Ok(chunk)))
    }
}

/// Streams have their own name for tokens that end too early.
fn streaming(mut error: ApiError) -> ApiError {
    if error.cause == Cause::Incomplete {
        error.cause = Cause::IncompleteStream;
    }
    error
}
