//! Counts the answers that clients have not taken to their end. Knows no route and no connection.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::Request,
    middleware::{self, Next},
};
use http_body::{Frame, SizeHint};
use tokio::sync::watch;

/// The answers under way. Clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct OpenAnswers(Arc<watch::Sender<usize>>);

impl OpenAnswers {
    /// Counts every request to `app` until its answer's last byte is handed to the connection, or dropped with it.
    pub(crate) fn watch(&self, app: Router) -> Router {
        let answers = self.clone();
        app.layer(middleware::from_fn(move |request: Request, next: Next| {
            let open = answers.open();
            async move {
                next.run(request)
                    .await
                    .map(|body| Body::new(Watched { body, _open: open }))
            }
        }))
    }

    /// Resolves when every answer is with its client.
    pub(crate) async fn none(&self) {
        // An error means that the sender is gone, which `self` holds.
        self.0.subscribe().wait_for(|open| *open == 0).await.ok();
    }

    fn open(&self) -> Open {
        self.0.send_modify(|open| *open += 1);
        Open(self.clone())
    }
}

/// One answer under way.
struct Open(OpenAnswers);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.0.send_modify(|open| *open -= 1);
    }
}

struct Watched {
    body: Body,
    _open: Open,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use http_body::Body as _;
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn an_answer_is_open_until_its_body_is_taken_and_keeps_its_size() {
        let answers = OpenAnswers::default();
        let app = answers.watch(Router::new().route("/", get(|| async { "hello" })));
        answers.none().await;
        let answer = app
            .oneshot(Request::new(Body::empty()))
            .await
            .expect("an answer");
        assert_eq!(answer.body().size_hint().exact(), Some(5));
        assert_eq!(*answers.0.borrow(), 1);
        let body = axum::body::to_bytes(answer.into_body(), 10).await;
        assert_eq!(body.expect("a body"), "hello");
        answers.none().await;
    }
}
