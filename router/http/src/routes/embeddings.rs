//! `/v1/embeddings`: what the model makes of texts, as vectors. Served only where the operator chose a pooling.

use std::sync::Arc;

use axum::{
    Extension, Json, Router,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
    routing::post,
};
use futures_util::future::try_join_all;
use ribbon_core::Pooling;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::openai::prompts;
use crate::{
    collect::{Collected, collect},
    error::{ApiError, Cause, OpenAiError},
    extract::OpenAiJson,
    headers::answer_headers,
    instruments::Tally,
    openapi::OpenAiErrors,
    running::Running,
    schema::embeddings::{EmbeddingRequest, Embeddings},
    settings::HttpSettings,
    state::AppState,
    submit::{Submission, submit},
};

const PATH: &str = "/v1/embeddings";

/// Absent from the document where it is switched off.
pub(super) fn routes(settings: &HttpSettings) -> OpenApiRouter<AppState> {
    match settings.pooling {
        Some(_) => OpenApiRouter::new().routes(routes!(embeddings)),
        None => Router::new().route(PATH, post(off)).into(),
    }
}

async fn off() -> OpenAiError {
    let message = "embeddings are switched off; `--enable-embeddings` switches them on";
    OpenAiError(ApiError::new(Cause::NotFound, message))
}

/// The vectors of texts or token ids: final states, pooled as the server was told, of length 1.
#[utoipa::path(post, path = "/v1/embeddings", tag = "OpenAI", request_body = EmbeddingRequest,
    responses((status = 200, description = "A vector for each input", body = Embeddings), OpenAiErrors))]
async fn embeddings(
    State(state): State<AppState>,
    Extension(tally): Extension<Arc<Tally>>,
    headers: HeaderMap,
    OpenAiJson(mut request): OpenAiJson<EmbeddingRequest>,
) -> Result<Response, OpenAiError> {
    let submission = Submission {
        wish: request.wish(state.settings.pooling.unwrap_or(Pooling::Mean))?,
        source: prompts("input", request.input.take(), &state.settings)?,
        model: request.model.clone(),
        caller: state.caller(&headers, tally.arrived)?,
        user: request.user.take(),
    };
    let submitted = submit(&state, &tally, submission).await?;
    let reading = submitted.sequences.into_iter();
    let read = try_join_all(reading.map(|sequence| collect(sequence, false))).await?;
    Ok(answer(
        &state,
        &tally,
        &request,
        (read, submitted.characters),
    ))
}

fn answer(
    state: &AppState,
    tally: &Tally,
    request: &EmbeddingRequest,
    (read, characters): (Vec<Collected>, usize),
) -> Response {
    let settings = &state.settings;
    let body = Embeddings::new(
        &read,
        request.encoding(),
        request.model.as_deref(),
        settings,
    );
    let mut response = Json(body).into_response();
    let sequences: Vec<Running> = read.into_iter().map(|one| one.running).collect();
    answer_headers(response.headers_mut(), settings, characters, &sequences);
    tally.succeed(&sequences.iter().map(Running::timings).collect::<Vec<_>>());
    response
}
