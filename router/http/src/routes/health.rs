//! `/health` (and `/`): are steps made. `/live`: is the process there. `/ready`: may requests come.

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use ribbon_core::EngineState;

use crate::{
    error::{ApiError, Cause, NativeError},
    state::AppState,
};

pub(super) fn routes() -> Router<AppState> {
    Router::new()
        .route("/", get(health))
        .route("/health", get(health))
        .route("/live", get(StatusCode::OK))
        .route("/ready", get(ready))
}

/// A draining server is healthy: it still makes steps.
async fn health(State(state): State<AppState>) -> Response {
    match state.engines.get(None).state() {
        EngineState::Ready | EngineState::Draining => StatusCode::OK.into_response(),
        EngineState::Starting | EngineState::Recovering => {
            NativeError(ApiError::new(Cause::Unhealthy, "unhealthy")).into_response()
        }
    }
}

async fn ready(State(state): State<AppState>) -> Response {
    let (cause, message) = match state.engines.get(None).state() {
        EngineState::Ready => return StatusCode::OK.into_response(),
        EngineState::Starting => (Cause::NotReady, "the model is not ready yet"),
        EngineState::Recovering => (Cause::NotReady, "the model is being restarted"),
        EngineState::Draining => (Cause::ShuttingDown, "the server is shutting down"),
    };
    NativeError(ApiError::new(cause, message)).into_response()
}
