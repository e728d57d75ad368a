//! `/tokenize`: the tokens of a text, with their byte offsets.

use axum::{Json, Router, extract::State, routing::post};
use ribbon_text::{SpecialTokens, TokenSpan};
use serde::Serialize;

use crate::{
    error::NativeError, extract::NativeJson, schema::native::GenerateRequest, state::AppState,
};

pub(super) fn routes() -> Router<AppState> {
    Router::new().route("/tokenize", post(tokenize))
}

#[derive(Serialize)]
struct SimpleToken {
    id: u32,
    text: String,
    start: usize,
    stop: usize,
}

/// The body is a generate body; of it only `inputs` matters, but a misspelt field is refused as elsewhere.
async fn tokenize(
    State(state): State<AppState>,
    NativeJson(request): NativeJson<GenerateRequest>,
) -> Result<Json<Vec<SimpleToken>>, NativeError> {
    request.check_fields()?;
    let text = state.text.clone();
    let bytes = request.inputs.len() as u64;
    let spans = move || {
        let spans = text
            .tokenizer
            .encode_spans(&request.inputs, SpecialTokens::Add)?;
        let named = |span: TokenSpan| {
            let text = request
                .inputs
                .get(span.start..span.stop)
                .unwrap_or_default()
                .to_owned();
            SimpleToken {
                id: span.id,
                text,
                start: span.start,
                stop: span.stop,
            }
        };
        Ok(Json(spans.into_iter().map(named).collect()))
    };
    state.workers.run(bytes, spans).await?
}
