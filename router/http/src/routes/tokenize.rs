//! `/tokenize`: the tokens of a text, with their byte offsets. `/chat_tokenize`: the same of a conversation, after the template.

use std::sync::Arc;

use axum::{Extension, extract::State};
use ribbon_text::{Detokenizer, SpecialTokens, TokenSpan, Tokenizer};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::openai::chat_submission;
use crate::{
    caller::Caller,
    error::{ApiError, NativeError},
    extract::NativeJson,
    instruments::Tally,
    large_json::LargeJson,
    openapi::{ChatBody, TextErrors},
    schema::{native::GenerateRequest, openai::OpenAiRequest},
    state::{AppState, ModelText},
    submit::Source,
};

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(tokenize))
}

/// Counted as a generation request, as with TGI.
pub(super) fn chat_routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(chat_tokenize))
}

/// One token of a text; `start` and `stop` are byte offsets.
#[derive(Serialize, ToSchema)]
struct SimpleToken {
    id: u32,
    text: String,
    start: usize,
    stop: usize,
}

/// Answer of `/chat_tokenize`.
#[derive(Serialize, ToSchema)]
struct ChatTokens {
    tokenize_response: Vec<SimpleToken>,
    /// What the model would read.
    templated_text: String,
}

/// The tokens of `inputs`; of the parameters none matters, but a misspelt one is refused as elsewhere.
#[utoipa::path(post, path = "/tokenize", tag = "TGI", request_body = GenerateRequest,
    responses((status = 200, description = "Every token of the text", body = Vec<SimpleToken>), TextErrors))]
async fn tokenize(
    State(state): State<AppState>,
    caller: Caller,
    NativeJson(request): NativeJson<GenerateRequest>,
) -> Result<LargeJson, NativeError> {
    request.check_fields()?;
    let text = state.text.clone();
    let bytes = request.inputs.len() as u64;
    let tokens = move || {
        LargeJson::write(&tokens(
            &text.tokenizer,
            &request.inputs,
            SpecialTokens::Add,
        )?)
    };
    Ok(caller.in_time(state.work(bytes, tokens)).await???)
}

/// The conversation as the model would read it, and its tokens.
#[utoipa::path(post, path = "/chat_tokenize", tag = "TGI", request_body = ChatBody,
    responses((status = 200, description = "The rendered conversation", body = ChatTokens), TextErrors))]
async fn chat_tokenize(
    State(state): State<AppState>,
    Extension(tally): Extension<Arc<Tally>>,
    caller: Caller,
    NativeJson(mut request): NativeJson<OpenAiRequest>,
) -> Result<LargeJson, NativeError> {
    let source = chat_submission(&state, caller.clone(), &mut request)?.source;
    let text = state.text.clone();
    let bytes = source.bytes();
    let rendering = state.work(bytes, move || LargeJson::write(&rendered(&text, source)?));
    let shown = caller.in_time(rendering).await???;
    tally.succeed(&[]);
    Ok(shown)
}

fn tokens(
    tokenizer: &Tokenizer,
    text: &str,
    special: SpecialTokens,
) -> Result<Vec<SimpleToken>, ApiError> {
    let named = |span: TokenSpan| SimpleToken {
        id: span.id,
        text: text
            .get(span.start..span.stop)
            .unwrap_or_default()
            .to_owned(),
        start: span.start,
        stop: span.stop,
    };
    let spans = tokenizer.encode_spans(text, special)?;
    Ok(spans.into_iter().map(named).collect())
}

/// Runs on a worker.
fn rendered(text: &ModelText, source: Source) -> Result<ChatTokens, ApiError> {
    let Source::Chat(conversation) = source else {
        return Err(ApiError::invalid("messages", "`messages` is missing"));
    };
    let prompt = conversation.render(text.template.as_ref())?;
    let ids = prompt.encode(&text.tokenizer)?;
    Ok(ChatTokens {
        tokenize_response: placed(&text.tokenizer, &ids),
        templated_text: prompt.text(),
    })
}

/// Tokens with the text that each completes, one behind the other.
fn placed(tokenizer: &Arc<Tokenizer>, ids: &[u32]) -> Vec<SimpleToken> {
    let mut detokenizer = Detokenizer::new(tokenizer.clone(), &[]);
    let mut start = 0;
    let place = |&id: &u32| {
        let mut text = String::new();
        detokenizer.push(id, &mut text);
        if tokenizer.is_special(id) {
            text.push_str(&tokenizer.text_of(id));
        }
        let begin = start;
        start += text.len();
        SimpleToken {
            id,
            text,
            start: begin,
            stop: start,
        }
    };
    ids.iter().map(place).collect()
}
