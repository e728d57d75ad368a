//! `/invocations`, SageMaker's one door: the fields of the body say which route it is for.

use std::sync::Arc;

use axum::{
    Extension,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, de::IgnoredAny};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{generate::compat, openai};
use crate::{
    error::{ApiError, NativeError, OpenAiError},
    extract::{NativeJson, OpenAiJson, RawJson},
    instruments::Tally,
    openapi::{AnyBody, NativeErrors},
    state::AppState,
};

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(invocations))
}

/// What tells the bodies apart, in the order in which TGI tries them.
#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Fields {
    inputs: Option<IgnoredAny>,
    messages: Option<IgnoredAny>,
    prompt: Option<IgnoredAny>,
}

/// One of three: with `inputs` as `/`, with `messages` as chat, with `prompt` as completions.
#[utoipa::path(post, path = "/invocations", tag = "SageMaker", request_body = AnyBody,
    responses((status = 200, description = "What that route answers"), NativeErrors))]
async fn invocations(
    state: State<AppState>,
    tally: Extension<Arc<Tally>>,
    headers: HeaderMap,
    body: RawJson,
) -> Response {
    let fields = match body.parse() {
        Ok(fields) => fields,
        Err(error) => return NativeError(error).into_response(),
    };
    match fields {
        Fields {
            inputs: Some(_), ..
        } => match body.parse() {
            Ok(request) => compat(state, tally, headers, NativeJson(request))
                .await
                .into_response(),
            Err(error) => NativeError(error).into_response(),
        },
        Fields {
            messages: Some(_), ..
        } => match body.parse() {
            Ok(request) => openai::chat(state, tally, headers, OpenAiJson(request))
                .await
                .into_response(),
            Err(error) => OpenAiError(error).into_response(),
        },
        Fields {
            prompt: Some(_), ..
        } => match body.parse() {
            Ok(request) => openai::completions(state, tally, headers, OpenAiJson(request))
                .await
                .into_response(),
            Err(error) => OpenAiError(error).into_response(),
        },
        _ => NativeError(unknown()).into_response(),
    }
}

fn unknown() -> ApiError {
    let message = "the body has none of `inputs`, `messages` and `prompt`";
    ApiError::shape(None, message.to_owned())
}
