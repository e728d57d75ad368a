//! `/info` and `/v1/models`: what is served, and its limits.

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    error::{NativeError, NativeErrorBody},
    state::AppState,
    submit::ready_model,
};

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(info))
        .routes(routes!(models))
}

#[derive(Serialize, ToSchema)]
struct Info {
    model_id: String,
    model_sha: Option<String>,
    model_pipeline_tag: Option<String>,
    max_concurrent_requests: u32,
    max_best_of: u32,
    max_stop_sequences: usize,
    max_input_tokens: u32,
    max_total_tokens: u32,
    num_shard: u32,
    /// Whose code runs the model: `ribbon`, or `transformers` where the bridge does.
    model_code: &'static str,
    validation_workers: usize,
    max_client_batch_size: usize,
    router: &'static str,
    version: &'static str,
    sha: Option<String>,
    docker_label: Option<String>,
}

/// What is served. The limits are the resolved ones, so there is no answer before a shard was warm.
#[utoipa::path(get, path = "/info", tag = "TGI",
    responses((status = 200, description = "Names and limits", body = Info), (status = 503, description = "Not warm yet", body = NativeErrorBody)))]
async fn info(State(state): State<AppState>) -> Result<Json<Info>, NativeError> {
    let model = ready_model(state.engines.get(None).as_ref())?;
    let limits = model.limits;
    let settings = &state.settings;
    Ok(Json(Info {
        model_id: settings.model_id.clone(),
        model_sha: settings.model_sha.clone(),
        model_pipeline_tag: None,
        max_concurrent_requests: settings.max_concurrent_requests,
        max_best_of: settings.max_best_of,
        max_stop_sequences: settings.max_stop_sequences,
        max_input_tokens: limits.max_input_tokens,
        max_total_tokens: limits.max_total_tokens,
        num_shard: model.description.num_shards,
        model_code: if model.description.runs_bridge {
            "transformers"
        } else {
            "ribbon"
        },
        validation_workers: settings.validation_workers,
        max_client_batch_size: settings.max_client_batch_size,
        router: "text-generation-router",
        version: env!("CARGO_PKG_VERSION"),
        sha: settings.build_sha.clone(),
        docker_label: settings.docker_label.clone(),
    }))
}

#[derive(Serialize, ToSchema)]
struct Models {
    object: &'static str,
    data: [Model; 1],
}

#[derive(Serialize, ToSchema)]
struct Model {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: String,
}

/// The served model, in a list.
#[utoipa::path(get, path = "/v1/models", tag = "OpenAI",
    responses((status = 200, description = "The model", body = Models)))]
async fn models(State(state): State<AppState>) -> Json<Models> {
    let id = &state.settings.model_id;
    let model = Model {
        id: id.clone(),
        object: "model",
        created: 0,
        owned_by: id.clone(),
    };
    Json(Models {
        object: "list",
        data: [model],
    })
}
