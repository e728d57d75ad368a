//! Around every generation route: each HTTP request is counted once, and its failure once.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};

use crate::{edge::REQUEST_ID, error::ApiError, instruments::Tally, state::AppState};

/// Opens the request's [`Tally`] and settles it for an error answer. Success is settled where the last token is seen; a
/// tally that nobody settles belongs to a client that went away.
pub(crate) async fn tally(
    State(state): State<AppState>,
    mut request: Request,
    next: Next,
) -> Response {
    let name = request.headers().get(REQUEST_ID).cloned();
    let tally = Arc::new(Tally::start(state.instruments.clone(), name));
    request.extensions_mut().insert(tally.clone());
    let response = next.run(request).await;
    if let Some(error) = response.extensions().get::<ApiError>() {
        tally.fail(error);
    }
    response
}
