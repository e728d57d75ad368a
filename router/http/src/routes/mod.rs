//! All routes. Counting sits around the generation routes; unknown paths and methods under `/v1` get JSON.

mod debug;
mod generate;
mod health;
mod info;
mod openai;
mod prometheus;
mod tokenize;

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderName, HeaderValue, Method, StatusCode, Version, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use ribbon_core::EngineState;
use tower_http::cors::{Any, CorsLayer};

use crate::{
    caller::TIMEOUT_HEADER,
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
        .merge(debug::routes(&state.settings))
        .merge(health::routes())
        .merge(info::routes())
        .merge(prometheus::routes())
        .merge(tokenize::routes())
        .fallback(async |request: Request| refuse(&request, Cause::NotFound))
        .method_not_allowed_fallback(async |request: Request| {
            refuse(&request, Cause::MethodNotAllowed)
        })
        .layer(middleware::from_fn_with_state(state.clone(), leave))
        .layer(cors())
        .with_state(state)
}

/// While the server stops, answers take their connections with them: the next request should go elsewhere.
async fn leave(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let closes = request.version() < Version::HTTP_2;
    let mut response = next.run(request).await;
    if closes && state.engines.get(None).state() == EngineState::Draining {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    response
}

/// Web pages of any origin may call, as with TGI; answers vary as TGI's do, for caches between.
fn cors() -> CorsLayer {
    CorsLayer::new()
        .allow_origin(Any)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([
            header::CONTENT_TYPE,
            header::AUTHORIZATION,
            HeaderName::from_static(TIMEOUT_HEADER),
        ])
        .vary([
            header::ORIGIN,
            header::ACCESS_CONTROL_REQUEST_METHOD,
            header::ACCESS_CONTROL_REQUEST_HEADERS,
        ])
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
