//! TGI's own routes: `/generate`, `/generate_stream`, and `/`, which is either.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use futures_util::future::try_join_all;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    caller::Caller,
    collect::{Collected, collect},
    error::{ApiError, Cause, NativeError},
    extract::NativeJson,
    headers::{answer_headers, compute_time},
    instruments::Tally,
    openapi::{NativeErrors, NativeEvent},
    schema::{
        native::GenerateRequest,
        native_answer::{Answer, NativeWriter},
    },
    sse,
    state::AppState,
    submit::{Source, Submission, submit},
};

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(generate))
        .routes(routes!(generate_stream))
        .routes(routes!(compat))
}

/// What the answer looks like, apart from its text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Object,
    /// One object in an array; the prompt comes first unless it is declined.
    Array,
}

type Handled = Result<Response, NativeError>;

/// One answer, when it is complete.
#[utoipa::path(post, path = "/generate", tag = "TGI", request_body = GenerateRequest,
    responses((status = 200, description = "The generated text", body = Answer), NativeErrors))]
async fn generate(
    State(state): State<AppState>,
    Extension(tally): Extension<Arc<Tally>>,
    headers: HeaderMap,
    NativeJson(request): NativeJson<GenerateRequest>,
) -> Handled {
    request.check_stream(false)?;
    let call = Call::new(&state, tally, &headers)?;
    Ok(call.complete(request, Shape::Object).await?)
}

/// Server-sent events, one for each token; the last one has `generated_text`. An error after the first is an event too.
#[utoipa::path(post, path = "/generate_stream", tag = "TGI", request_body = GenerateRequest,
    responses((status = 200, description = "A stream of events", body = NativeEvent, content_type = "text/event-stream"), NativeErrors))]
async fn generate_stream(
    State(state): State<AppState>,
    Extension(tally): Extension<Arc<Tally>>,
    headers: HeaderMap,
    NativeJson(request): NativeJson<GenerateRequest>,
) -> Handled {
    request.check_stream(true)?;
    let call = Call::new(&state, tally, &headers)?;
    Ok(call.stream(request, false).await?)
}

/// As `/generate`, in an array of one; or as `/generate_stream`, with `stream: true`.
#[utoipa::path(post, path = "/", tag = "TGI", request_body = GenerateRequest,
    responses((status = 200, description = "The generated text, or a stream", content(
        (Vec<Answer> = "application/json"), (NativeEvent = "text/event-stream"))), NativeErrors))]
pub(super) async fn compat(
    State(state): State<AppState>,
    Extension(tally): Extension<Arc<Tally>>,
    headers: HeaderMap,
    NativeJson(request): NativeJson<GenerateRequest>,
) -> Handled {
    let call = Call::new(&state, tally, &headers)?;
    match request.stream {
        Some(true) => Ok(call.stream(request, true).await?),
        _ => Ok(call.complete(request, Shape::Array).await?),
    }
}

struct Call<'a> {
    state: &'a AppState,
    tally: Arc<Tally>,
    caller: Caller,
}

/// A request apart from its answer's looks.
struct Asked {
    submission: Submission,
    with_details: bool,
    /// The prompt, where the answer begins with it.
    full_text: Option<String>,
}

impl<'a> Call<'a> {
    fn new(state: &'a AppState, tally: Arc<Tally>, headers: &HeaderMap) -> Result<Self, ApiError> {
        let caller = state.caller(headers, tally.arrived)?;
        Ok(Self {
            state,
            tally,
            caller,
        })
    }

    fn asked(
        &self,
        mut request: GenerateRequest,
        is_stream: bool,
        full_by_default: bool,
    ) -> Result<Asked, ApiError> {
        let wish = request.wish(&self.state.settings, is_stream)?;
        let parameters = request.parameters.unwrap_or_default();
        let is_full = parameters.return_full_text.unwrap_or(full_by_default);
        Ok(Asked {
            full_text: is_full.then(|| request.inputs.clone()),
            with_details: parameters.shows_details(),
            submission: Submission {
                wish,
                source: Source::Texts(vec![request.inputs]),
                model: None,
                caller: self.caller.clone(),
                user: None,
            },
        })
    }

    async fn complete(&self, request: GenerateRequest, shape: Shape) -> Result<Response, ApiError> {
        let asked = self.asked(request, false, shape == Shape::Array)?;
        let submitted = submit(self.state, &self.tally, asked.submission).await?;
        let running = submitted.sequences.into_iter();
        let collecting = running.map(|running| collect(running, asked.with_details));
        let ranked = submitted.choices.ranked(try_join_all(collecting).await?);
        let Some((best, others)) = ranked.split_first() else {
            return Err(ApiError::new(Cause::Incomplete, "nothing was generated"));
        };
        let full_text = asked.full_text.as_deref();
        let answer = Answer::new(best, others, full_text, asked.with_details);
        let mut response = match shape {
            Shape::Object => Json(answer).into_response(),
            Shape::Array => Json([answer]).into_response(),
        };
        self.settle(response.headers_mut(), submitted.characters, ranked);
        Ok(response)
    }

    async fn stream(
        &self,
        request: GenerateRequest,
        full_by_default: bool,
    ) -> Result<Response, ApiError> {
        let asked = self.asked(request, true, full_by_default)?;
        let submitted = submit(self.state, &self.tally, asked.submission).await?;
        let writer = NativeWriter::new(asked.full_text, asked.with_details);
        sse::respond(self.state, self.tally.clone(), submitted, writer).await
    }

    fn settle(&self, headers: &mut HeaderMap, characters: usize, collected: Vec<Collected>) {
        let sequences: Vec<_> = collected
            .into_iter()
            .map(|collected| collected.running)
            .collect();
        answer_headers(headers, &self.state.settings, characters, &sequences);
        if let Some(sequence) = sequences.first() {
            compute_time(headers, sequence);
        }
        self.tally.succeed(
            &sequences
                .iter()
                .map(crate::running::Running::timings)
                .collect::<Vec<_>>(),
        );
    }
}
