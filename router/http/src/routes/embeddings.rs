//! `/v1/embeddings`: what the model makes of texts, as vectors. Served only where the operator chose a pooling.

use std::sync::Arc;

use axum::{
    Extension, Router,
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
    caller::Caller,
    collect::{Collected, collect},
    error::{ApiError, Cause, OpenAiError},
    extract::OpenAiJson,
    headers::answer_headers,
    instruments::Tally,
    large_json::LargeJson,
    openapi::OpenAiErrors,
    running::Running,
    schema::embeddings::{EmbeddingRequest, Embeddings},
    settings::HttpSettings,
    state::AppState,
    submit::{Source, Submission, submit},
};

const PATH: &str = "/v1/embeddings";
/// As OpenAI has it.
const MAX_INPUTS: usize = 2048;

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

/// The vectors of texts or token ids: final states, pooled as the server was told, of length 1. At most 2,048 inputs, of which
/// `--max-client-batch-size` are computed at a time.
#[utoipa::path(post, path = "/v1/embeddings", tag = "OpenAI", request_body = EmbeddingRequest,
    responses((status = 200, description = "A vector for each input", body = Embeddings), OpenAiErrors))]
async fn embeddings(
    State(state): State<AppState>,
    Extension(tally): Extension<Arc<Tally>>,
    headers: HeaderMap,
    OpenAiJson(mut request): OpenAiJson<EmbeddingRequest>,
) -> Result<Response, OpenAiError> {
    let inputs = prompts("input", request.input.take(), (MAX_INPUTS, ""))?;
    let asker = Asker {
        caller: state.caller(&headers, tally.arrived)?,
        state,
        tally,
        request,
    };
    Ok(asker.answer(inputs).await?)
}

/// Who asks for vectors, and how.
struct Asker {
    state: AppState,
    tally: Arc<Tally>,
    caller: Caller,
    request: EmbeddingRequest,
}

impl Asker {
    async fn answer(&self, inputs: Source) -> Result<Response, ApiError> {
        let (mut read, mut characters) = (Vec::new(), 0);
        for part in inputs.parts(self.state.settings.max_client_batch_size) {
            let submitted = submit(&self.state, &self.tally, self.submission(part)?).await?;
            characters += submitted.characters;
            let reading = submitted.sequences.into_iter();
            read.extend(try_join_all(reading.map(|sequence| collect(sequence, false))).await?);
        }
        self.complete(read, characters).await
    }

    fn submission(&self, source: Source) -> Result<Submission, ApiError> {
        let pooling = self.state.settings.pooling.unwrap_or(Pooling::Mean);
        Ok(Submission {
            wish: self.request.wish(pooling)?,
            source,
            model: self.request.model.clone(),
            caller: self.caller.clone(),
            user: self.request.user.clone(),
        })
    }

    async fn complete(
        &self,
        read: Vec<Collected>,
        characters: usize,
    ) -> Result<Response, ApiError> {
        let settings = &self.state.settings;
        let model = settings.shown_model(self.request.model.as_deref());
        let (encoding, model) = (self.request.encoding(), model.to_owned());
        let write = move || {
            (
                LargeJson::write(&Embeddings::new(&read, encoding, model)),
                read,
            )
        };
        let (body, read) = self.state.work(0, write).await?;
        let mut response = body?.into_response();
        let sequences: Vec<Running> = read.into_iter().map(|one| one.running).collect();
        answer_headers(response.headers_mut(), settings, characters, &sequences);
        let timings: Vec<_> = sequences.iter().map(Running::timings).collect();
        self.tally.succeed(&timings);
        Ok(response)
    }
}
