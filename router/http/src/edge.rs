//! The layers around all routes: compression, request ids, CORS, keys, and the farewell of a server that stops.

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderName, HeaderValue, Method, Version, header},
    middleware::{self, Next},
    response::Response,
};
use ribbon_core::EngineState;
use tower_http::{
    CompressionLevel,
    compression::CompressionLayer,
    cors::{AllowOrigin, CorsLayer},
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer},
};

use crate::{auth, caller::TIMEOUT_HEADER, state::AppState};

/// Names a request in answers and logs; a client may choose it.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A longer one would fill logs and answers.
const MAX_REQUEST_ID_BYTES: usize = 256;

/// Puts the layers around `routes`; the last one is met first.
pub(crate) fn around(routes: Router<AppState>, state: &AppState) -> Router<AppState> {
    // Server-sent events are left alone: a compressor would hold tokens back.
    let compression = CompressionLayer::new().quality(CompressionLevel::Fastest);
    routes
        .layer(middleware::from_fn_with_state(state.clone(), leave))
        .layer(middleware::from_fn_with_state(state.clone(), auth::guard))
        .layer(cors(&state.settings.allowed_origins))
        .layer(PropagateRequestIdLayer::new(REQUEST_ID))
        .layer(SetRequestIdLayer::new(REQUEST_ID, MakeRequestUuid))
        .layer(middleware::map_request(drop_useless_id))
        .layer(compression)
}

/// A request whose own id names nothing, or goes on too long, gets a new one.
async fn drop_useless_id(mut request: Request) -> Request {
    let id = request.headers().get(REQUEST_ID);
    if id.is_some_and(|id| id.is_empty() || id.len() > MAX_REQUEST_ID_BYTES) {
        request.headers_mut().remove(REQUEST_ID);
    }
    request
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

/// Web pages of these origins may call, of any where there are none; answers vary as TGI's do, for caches between.
fn cors(origins: &[HeaderValue]) -> CorsLayer {
    let allowed = if origins.is_empty() {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().cloned())
    };
    CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([
            header::CONTENT_TYPE,
            header::AUTHORIZATION,
            HeaderName::from_static(TIMEOUT_HEADER),
        ])
        .expose_headers([REQUEST_ID, header::RETRY_AFTER])
        .vary([
            header::ORIGIN,
            header::ACCESS_CONTROL_REQUEST_METHOD,
            header::ACCESS_CONTROL_REQUEST_HEADERS,
        ])
}
