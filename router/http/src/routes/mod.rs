//! All routes. Counting sits around the generation routes; unknown paths and methods under `/v1` get JSON.

mod generate;
mod health;
mod info;
mod openai;
mod prometheus;
mod tokenize;

use axum::{
    Router,
    extract::Request,
    http::StatusCode,
    middleware,
    response::{IntoResponse, Response},
};

use crate::{
    error::{ApiError, Cause, OpenAiError},
    state::AppState,
    telemetry,
};

/// The whole HTTP side, ready to be served.
pub fn router(state: AppState) -> Router {
    let counted = middleware::from_fn_with_state(state.clone(), telemetry::tally);
    Router::new()
        .merge(generate::routes())
        .merge(openai::routes())
        .route_layer(counted)
        .merge(health::routes())
        .merge(info::routes())
        .merge(prometheus::routes())
        .merge(tokenize::routes())
        .fallback(async |request: Request| refuse(&request, Cause::NotFound))
        .method_not_allowed_fallback(async |request: Request| {
            refuse(&request, Cause::MethodNotAllowed)
        })
        .with_state(state)
}

/// An object under `/v1`, nothing elsewhere.
fn refuse(request: &Request, cause: Cause) -> Response {
    let path = request.uri().path();
    let status: StatusCode = cause.row().native;
    if !path.starts_with("/v1/") && path != "/v1" {
        return status.into_response();
    }
    let shown: String = path.chars().take(128).collect();
    let reason = status.canonical_reason().unwrap_or_default();
    OpenAiError(ApiError::new(
        cause,
        format!("{reason}: {} {shown}", request.method()),
    ))
    .into_response()
}
