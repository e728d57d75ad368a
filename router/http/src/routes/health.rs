//! `/health` (and `/`, `/ping`): are steps made. `/live`: is the process there. `/ready`: may requests come.

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use ribbon_core::EngineState;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    error::{ApiError, Cause, NativeError, NativeErrorBody},
    state::AppState,
};

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(root))
        .routes(routes!(health))
        .routes(routes!(ping))
        .routes(routes!(live))
        .routes(routes!(ready))
}

/// As `/health`.
#[utoipa::path(get, path = "/", tag = "Probes",
    responses((status = 200, description = "Steps are made"), (status = 503, description = "They are not", body = NativeErrorBody)))]
async fn root(state: State<AppState>) -> Response {
    health(state).await
}

/// As `/health`, where SageMaker looks for it.
#[utoipa::path(get, path = "/ping", tag = "SageMaker",
    responses((status = 200, description = "Steps are made"), (status = 503, description = "They are not", body = NativeErrorBody)))]
async fn ping(state: State<AppState>) -> Response {
    health(state).await
}

/// Whether steps are made; load never says no. A draining server is healthy while it still makes them.
#[utoipa::path(get, path = "/health", tag = "Probes",
    responses((status = 200, description = "Steps are made"), (status = 503, description = "They are not", body = NativeErrorBody)))]
async fn health(State(state): State<AppState>) -> Response {
    if state.engines.get(None).makes_steps() {
        return StatusCode::OK.into_response();
    }
    NativeError(ApiError::new(Cause::Unhealthy, "unhealthy")).into_response()
}

/// Whether the process is there.
#[utoipa::path(get, path = "/live", tag = "Probes", responses((status = 200, description = "It is")))]
async fn live() -> StatusCode {
    StatusCode::OK
}

/// Whether requests may come.
#[utoipa::path(get, path = "/ready", tag = "Probes",
    responses((status = 200, description = "They may"), (status = 503, description = "Not now", body = NativeErrorBody)))]
async fn ready(State(state): State<AppState>) -> Response {
    let (cause, message) = match state.engines.get(None).state() {
        EngineState::Ready => return StatusCode::OK.into_response(),
        EngineState::Starting => (Cause::NotReady, "the model is not ready yet"),
        EngineState::Recovering => (Cause::NotReady, "the model is being restarted"),
        EngineState::Draining => (Cause::ShuttingDown, "the server is shutting down"),
    };
    NativeError(ApiError::new(cause, message)).into_response()
}
