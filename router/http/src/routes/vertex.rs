//! `/vertex`, in the words of Google's Vertex AI: instances in, predictions out, in their order and never streamed.

use std::sync::Arc;

use axum::{Extension, Json, extract::State, http::HeaderMap};
use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::openai;
use crate::{
    caller::Caller,
    collect::{Collected, collect},
    error::{ApiError, Cause, NativeError},
    extract::{NativeJson, from_object},
    instruments::Tally,
    openapi::NativeErrors,
    schema::{native::GenerateRequest, openai::OpenAiRequest},
    state::AppState,
    submit::{Source, Submission, submit},
};

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(vertex))
}

/// Body of `/vertex`.
#[derive(Deserialize, ToSchema)]
struct VertexRequest {
    /// Each a text (`inputs`, and of `parameters` the length and the seed) or a chat body.
    #[schema(min_items = 1)]
    instances: Vec<Map<String, Value>>,
}

/// A text to go on with. Always sampled; of TGI's parameters only these are read.
#[derive(Deserialize)]
struct TextInstance {
    inputs: String,
    parameters: Option<TextParameters>,
}

#[derive(Default, Deserialize)]
struct TextParameters {
    max_new_tokens: Option<u64>,
    seed: Option<u64>,
}

/// Answer of `/vertex`.
#[derive(Serialize, ToSchema)]
struct Predictions {
    predictions: Vec<String>,
}

/// One prediction for each instance.
#[utoipa::path(post, path = "/vertex", tag = "Vertex AI", request_body = VertexRequest,
    responses((status = 200, description = "The texts, in the order of the instances", body = Predictions), NativeErrors))]
async fn vertex(
    State(state): State<AppState>,
    Extension(tally): Extension<Arc<Tally>>,
    headers: HeaderMap,
    NativeJson(request): NativeJson<VertexRequest>,
) -> Result<Json<Predictions>, NativeError> {
    check_number(request.instances.len(), &state)?;
    let caller = state.caller(&headers, tally.arrived)?;
    let submissions = request.instances.into_iter().enumerate();
    let submissions: Vec<Submission> = submissions
        .map(|(index, instance)| submission(&state, caller.clone(), index, instance))
        .collect::<Result<_, _>>()?;
    let predicting = submissions
        .into_iter()
        .map(|submission| predict(&state, &tally, submission));
    let predicted = try_join_all(predicting).await?;
    let timings: Vec<_> = predicted.iter().map(|one| one.running.timings()).collect();
    tally.succeed(&timings);
    let predictions = predicted.into_iter().map(|one| one.text).collect();
    Ok(Json(Predictions { predictions }))
}

fn check_number(number: usize, state: &AppState) -> Result<(), ApiError> {
    let limit = state.settings.max_concurrent_requests as usize;
    match number {
        0 => Err(ApiError::new(Cause::NoInstances, "`instances` is empty")),
        _ if number > limit => Err(ApiError::invalid(
            "instances",
            format!(
                "`instances` has {number} requests; this server allows {limit} at once (`--max-concurrent-requests`)"
            ),
        )),
        _ => Ok(()),
    }
}

fn submission(
    state: &AppState,
    caller: Caller,
    index: usize,
    instance: Map<String, Value>,
) -> Result<Submission, ApiError> {
    let at = format!("instances[{index}]");
    if !instance.contains_key("inputs") {
        let mut chat: OpenAiRequest = from_object(instance, &at)?;
        return openai::chat_submission(state, caller, &mut chat);
    }
    let text: TextInstance = from_object(instance, &at)?;
    let parameters = text.parameters.unwrap_or_default();
    let mut request =
        GenerateRequest::sampled(text.inputs, parameters.max_new_tokens, parameters.seed);
    Ok(Submission {
        wish: request.wish(&state.settings, false)?,
        source: Source::Texts(vec![request.inputs]),
        model: None,
        caller,
        user: None,
    })
}

async fn predict(
    state: &AppState,
    tally: &Arc<Tally>,
    submission: Submission,
) -> Result<Collected, ApiError> {
    let submitted = submit(state, tally, submission).await?;
    let nothing = || ApiError::new(Cause::Incomplete, "nothing was generated");
    let first = submitted.sequences.into_iter().next().ok_or_else(nothing)?;
    collect(first, false).await
}
