//! Answers that may have megabytes of JSON: written on a worker, and handed out so that nobody waits for them. Knows no route.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use axum::{
    body::{Body, Bytes, HttpBody},
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use http_body::{Frame, SizeHint};
use serde::Serialize;

use crate::error::{ApiError, Cause};

/// What is compressed at once, on a thread that others wait for.
const PIECE_BYTES: usize = 64 << 10;

/// A body of JSON.
#[derive(Debug)]
pub(crate) struct LargeJson(Bytes);

impl LargeJson {
    /// Writes it here, on the calling thread.
    ///
    /// # Errors
    /// `value` has no form in JSON.
    pub(crate) fn write(value: &impl Serialize) -> Result<Self, ApiError> {
        let written = serde_json::to_vec(value);
        let bytes = written.map_err(|error| ApiError::new(Cause::Internal, error.to_string()))?;
        Ok(Self(bytes.into()))
    }
}

impl IntoResponse for LargeJson {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::new(Pieces {
            rest: self.0,
            rests: false,
        }));
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        response
    }
}

/// A body in pieces, with a turn for other tasks between two of them.
struct Pieces {
    rest: Bytes,
    rests: bool,
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        self.rests = !self.rests;
        if !self.rests {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let length = self.rest.len().min(PIECE_BYTES);
        let piece = self.rest.split_to(length);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn others_have_a_turn_between_two_pieces() {
        let text = "a".repeat(3 * PIECE_BYTES);
        let mut body = LargeJson::write(&text).unwrap().into_response().into_body();
        assert_eq!(body.size_hint().exact(), Some(text.len() as u64 + 2));
        let (mut said, mut turns) = (Vec::new(), 0);
        while !body.is_end_stream() {
            let frame = poll_fn(|context| Poll::Ready(Pin::new(&mut body).poll_frame(context)));
            match frame.await {
                Poll::Pending => turns += 1,
                Poll::Ready(frame) => {
                    let piece = frame.unwrap().unwrap().into_data().unwrap();
                    assert!(piece.len() <= PIECE_BYTES);
                    said.extend(piece);
                }
            }
        }
        assert_eq!(said, format!("\"{text}\"").into_bytes());
        assert_eq!(turns, 3);
    }
}
