//! `/debug/ribbons`: the KV memory as JSON, for people. Served only where the operator asked for it.

use std::time::Duration;

use axum::{Json, Router, extract::State, routing::get};
use ribbon_core::RibbonsSnapshot;
use tokio::time::timeout;

use crate::{
    error::{ApiError, Cause, NativeError},
    settings::HttpSettings,
    state::AppState,
};

/// The engine answers between two steps.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

pub(super) fn routes(settings: &HttpSettings) -> Router<AppState> {
    if settings.debug_routes {
        Router::new().route("/debug/ribbons", get(ribbons))
    } else {
        Router::new()
    }
}

async fn ribbons(State(state): State<AppState>) -> Result<Json<RibbonsSnapshot>, NativeError> {
    let answer = timeout(ANSWER_LIMIT, state.engines.get(None).debug()).await;
    let snapshot = answer.ok().flatten();
    let absent = || {
        ApiError::new(
            Cause::NotReady,
            "no shard is live, so there is no KV memory",
        )
    };
    Ok(Json(snapshot.ok_or_else(absent)?))
}
