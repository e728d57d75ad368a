//! `/v1/chat/completions` and `/v1/completions`, streamed and not.

use std::sync::Arc;

use axum::{
    Extension,
    extract::State,
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use futures_util::future::try_join_all;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    caller::Caller,
    collect::collect,
    error::{ApiError, Cause, OpenAiError},
    extract::OpenAiJson,
    headers::{answer_headers, compute_time},
    instruments::Tally,
    openapi::{ChatBody, CompletionBody, OpenAiErrors, OpenAiEvent},
    running::Running,
    schema::{
        openai::{OpenAiRequest, Prompt},
        openai_answer::{Head, Kind, Look, Object as OpenAiAnswer, body},
        openai_stream::OpenAiWriter,
    },
    sse,
    state::AppState,
    submit::{Source, Submission, Submitted, submit},
};

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(chat))
        .routes(routes!(completions))
}

type Handled = Result<Response, OpenAiError>;

/// The next message of a conversation, whole or streamed.
#[utoipa::path(post, path = "/v1/chat/completions", tag = "OpenAI", request_body = ChatBody,
    responses((status = 200, description = "The message, or a stream of its pieces that ends with `[DONE]`", content(
        (OpenAiAnswer = "application/json"), (OpenAiEvent = "text/event-stream"))), OpenAiErrors))]
pub(super) async fn chat(
    State(state): State<AppState>,
    Extension(tally): Extension<Arc<Tally>>,
    headers: HeaderMap,
    OpenAiJson(mut request): OpenAiJson<OpenAiRequest>,
) -> Handled {
    let caller = state.caller(&headers, tally.arrived)?;
    let submission = chat_submission(&state, caller, &mut request)?;
    let logprobs = request.chat_logprobs(state.settings.max_top_n_tokens)?;
    let prompt_logprobs = submission.wish.sampling.prompt_top_tokens;
    let submitted = submit(&state, &tally, submission).await?;
    let call = Call {
        state: &state,
        tally,
        look: Look {
            kind: Kind::Chat,
            logprobs,
            prompt_logprobs,
            echo: Vec::new(),
        },
        request,
    };
    Ok(call.answer(submitted).await?)
}

/// What a chat body asks of the engine.
///
/// # Errors
/// The first field that cannot be meant.
pub(super) fn chat_submission(
    state: &AppState,
    caller: Caller,
    request: &mut OpenAiRequest,
) -> Result<Submission, ApiError> {
    let mut wish = request.wish(&state.settings)?;
    let logprobs = request.chat_logprobs(state.settings.max_top_n_tokens)?;
    wish.sampling.top_tokens = logprobs.unwrap_or(0);
    let prompt_logprobs = request.prompt_logprobs(state.settings.max_top_n_tokens)?;
    wish.score_prompt("prompt_logprobs", prompt_logprobs);
    request.check_chat_fields()?;
    let messages = request.messages.take();
    let template = state.text.template.as_ref();
    let conversation = request.chat.conversation(messages, template)?;
    wish.grammar = conversation.grammar(wish.grammar.take())?;
    Ok(Submission {
        wish,
        source: Source::Chat(Box::new(conversation)),
        model: request.model.clone(),
        caller,
        user: request.user.take(),
    })
}

/// What comes after each prompt, whole or streamed.
#[utoipa::path(post, path = "/v1/completions", tag = "OpenAI", request_body = CompletionBody,
    responses((status = 200, description = "The texts, or a stream of their pieces that ends with `[DONE]`", content(
        (OpenAiAnswer = "application/json"), (OpenAiEvent = "text/event-stream"))), OpenAiErrors))]
pub(super) async fn completions(
    State(state): State<AppState>,
    Extension(tally): Extension<Arc<Tally>>,
    headers: HeaderMap,
    OpenAiJson(mut request): OpenAiJson<OpenAiRequest>,
) -> Handled {
    let mut wish = request.wish(&state.settings)?;
    let logprobs = request.completion_logprobs(state.settings.max_top_n_tokens)?;
    wish.sampling.top_tokens = logprobs.unwrap_or(0);
    let prompt_logprobs = request.prompt_logprobs(state.settings.max_top_n_tokens)?;
    wish.score_prompt("prompt_logprobs", prompt_logprobs);
    wish.score_prompt("echo", logprobs.filter(|_| request.echoes()));
    request.check_completion_fields()?;
    let limit = state.settings.max_client_batch_size;
    let source = prompts(
        "prompt",
        request.prompt.take(),
        (limit, " (`--max-client-batch-size`)"),
    )?;
    let texts = request.echoes().then(|| source.clone());
    let submission = Submission {
        wish,
        source,
        model: request.model.clone(),
        caller: state.caller(&headers, tally.arrived)?,
        user: request.user.take(),
    };
    let submitted = submit(&state, &tally, submission).await?;
    let echo = texts.map_or_else(Vec::new, |source| source.shown(&state.text.tokenizer));
    let call = Call {
        state: &state,
        tally,
        look: Look {
            kind: Kind::Completion,
            logprobs,
            prompt_logprobs,
            echo,
        },
        request,
    };
    Ok(call.answer(submitted).await?)
}

/// The prompts in the field `name`: at least one, none empty, at most `limit`, which `set_by` may change.
pub(crate) fn prompts(
    name: &'static str,
    prompt: Option<Prompt>,
    (limit, set_by): (usize, &str),
) -> Result<Source, ApiError> {
    let invalid = |message: String| Err(ApiError::invalid(name, message));
    let (source, number, has_empty) = match prompt {
        None => return invalid(format!("`{name}` is missing")),
        Some(Prompt::Text(text)) => one_or_more(vec![text], String::is_empty, Source::Texts),
        Some(Prompt::Texts(texts)) => one_or_more(texts, String::is_empty, Source::Texts),
        Some(Prompt::Ids(ids)) => one_or_more(vec![ids], Vec::is_empty, Source::Ids),
        Some(Prompt::ManyIds(lists)) => one_or_more(lists, Vec::is_empty, Source::Ids),
    };
    match number {
        0 => invalid(format!("`{name}` is an empty list")),
        _ if has_empty => invalid(format!("`{name}` is empty")),
        number if number > limit => Err(ApiError::new(
            Cause::BatchSize,
            format!("`{name}` has {number} prompts; this server allows {limit}{set_by}"),
        )
        .at(name)),
        _ => Ok(source),
    }
}

fn one_or_more<T>(
    prompts: Vec<T>,
    is_empty: fn(&T) -> bool,
    source: fn(Vec<T>) -> Source,
) -> (Source, usize, bool) {
    let (number, has_empty) = (prompts.len(), prompts.iter().any(is_empty));
    (source(prompts), number, has_empty)
}

/// A request that the engine took, and how it is answered.
struct Call<'a> {
    state: &'a AppState,
    tally: Arc<Tally>,
    look: Look,
    request: OpenAiRequest,
}

impl Call<'_> {
    async fn answer(self, submitted: Submitted) -> Result<Response, ApiError> {
        let is_stream = self.request.is_stream();
        let head = Head::new(
            self.look.kind,
            is_stream,
            self.request.model.as_deref(),
            &self.state.settings,
        );
        if !is_stream {
            return self.complete(head, submitted).await;
        }
        let run = submitted.choices.run;
        let writer = OpenAiWriter::new(head, self.look, self.request.usage_report(), run);
        sse::respond(self.state, self.tally, submitted, writer).await
    }

    async fn complete(self, head: Head, submitted: Submitted) -> Result<Response, ApiError> {
        let collecting = submitted
            .sequences
            .into_iter()
            .map(|running| collect(running, self.look.logprobs.is_some()));
        let choices = submitted.choices;
        let collected = choices.ranked(try_join_all(collecting).await?);
        let body = body(&head, &self.look, (choices, &collected));
        let sequences: Vec<Running> = collected
            .into_iter()
            .map(|collected| collected.running)
            .collect();
        let mut response = ([(header::CONTENT_TYPE, "application/json")], body).into_response();
        answer_headers(
            response.headers_mut(),
            &self.state.settings,
            submitted.characters,
            &sequences,
        );
        if let (Kind::Chat, Some(sequence)) = (self.look.kind, sequences.first()) {
            compute_time(response.headers_mut(), sequence);
        }
        self.tally
            .succeed(&sequences.iter().map(Running::timings).collect::<Vec<_>>());
        Ok(response)
    }
}
