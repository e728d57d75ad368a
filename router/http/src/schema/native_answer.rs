//! Answers and events of the native routes.

use bytes::BytesMut;
use ribbon_core::FinishReason;
use ribbon_text::Tokenizer;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    collect::Collected,
    error::ApiError,
    running::{Running, Step},
    sse::{EventWriter, event},
    token_texts::{TokenText, TokenTexts},
};

#[derive(Debug, Serialize, ToSchema)]
struct TokenObject<'a> {
    id: u32,
    text: &'a str,
    logprob: f32,
    special: bool,
}

impl<'a> TokenObject<'a> {
    fn new(token: &'a TokenText) -> Self {
        Self {
            id: token.token.id,
            text: &token.text,
            logprob: token.token.logprob,
            special: token.is_special,
        }
    }
}

/// A token of the prompt; the first has no logprob.
#[derive(Debug, Serialize, ToSchema)]
struct PrefillToken {
    id: u32,
    text: String,
    logprob: Option<f32>,
}

#[derive(Debug, Serialize, ToSchema)]
struct TopToken {
    id: u32,
    text: String,
    logprob: f32,
    special: bool,
}

fn top_tokens(tokenizer: &Tokenizer, top: &[(u32, f32)]) -> Vec<TopToken> {
    let object = |&(id, logprob): &(u32, f32)| TopToken {
        id,
        text: tokenizer.text_of(id),
        logprob,
        special: tokenizer.is_special(id),
    };
    top.iter().map(object).collect()
}

fn prefill(running: &Running) -> Vec<PrefillToken> {
    let scored = running.scored_prompt();
    scored
        .map(|(id, score)| PrefillToken {
            id,
            text: running.tokenizer.text_of(id),
            logprob: score.map(|score| score.logprob),
        })
        .collect()
}

/// Body of a complete answer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Answer<'a> {
    generated_text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details<'a>>,
}

#[derive(Debug, Serialize, ToSchema)]
struct Details<'a> {
    #[schema(value_type = String)]
    finish_reason: FinishReason,
    generated_tokens: u32,
    seed: Option<u64>,
    prefill: Vec<PrefillToken>,
    tokens: Vec<TokenObject<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_tokens: Option<Vec<Vec<TopToken>>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    best_of_sequences: Vec<Run<'a>>,
}

/// A run that was not the likeliest.
#[derive(Debug, Serialize, ToSchema)]
struct Run<'a> {
    generated_text: String,
    #[serde(flatten)]
    #[schema(no_recursion)]
    details: Details<'a>,
}

impl<'a> Answer<'a> {
    /// `others` ran beside `best`. `full_text` is the prompt, where it shall come first.
    pub(crate) fn new(
        best: &'a Collected,
        others: &'a [Collected],
        full_text: Option<&str>,
        with_details: bool,
    ) -> Self {
        let text =
            |collected: &Collected| full_text.unwrap_or_default().to_owned() + &collected.text;
        let run = |collected| Run {
            generated_text: text(collected),
            details: Details::new(collected),
        };
        let details = || Details {
            best_of_sequences: others.iter().map(run).collect(),
            ..Details::new(best)
        };
        Self {
            generated_text: text(best),
            details: with_details.then(details),
        }
    }
}

impl<'a> Details<'a> {
    fn new(collected: &'a Collected) -> Self {
        let Collected {
            running,
            tokens,
            finish,
            ..
        } = collected;
        let has_top = tokens.iter().any(|t| !t.token.top.is_empty());
        Self {
            finish_reason: *finish,
            generated_tokens: running.generated_tokens,
            seed: running.seed,
            prefill: prefill(running),
            tokens: tokens.iter().map(TokenObject::new).collect(),
            top_tokens: has_top.then(|| {
                tokens
                    .iter()
                    .map(|t| top_tokens(&running.tokenizer, &t.token.top))
                    .collect()
            }),
            best_of_sequences: Vec::new(),
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StreamEvent<'a> {
    index: u32,
    token: TokenObject<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    top_tokens: Vec<TopToken>,
    generated_text: Option<&'a str>,
    details: Option<StreamDetails>,
}

#[derive(Debug, Serialize, ToSchema)]
struct StreamDetails {
    #[schema(value_type = String)]
    finish_reason: FinishReason,
    generated_tokens: u32,
    seed: Option<u64>,
    input_length: u32,
}

/// Writes a native stream.
pub(crate) struct NativeWriter {
    with_details: bool,
    text: String,
    texts: TokenTexts,
}

impl NativeWriter {
    /// `full_text` is the prompt, where the last event's text shall begin with it.
    pub(crate) fn new(full_text: Option<String>, with_details: bool) -> Self {
        Self {
            with_details,
            text: full_text.unwrap_or_default(),
            texts: TokenTexts::default(),
        }
    }
}

impl StreamDetails {
    fn new(sequence: &Running, finish_reason: FinishReason) -> Self {
        Self {
            finish_reason,
            generated_tokens: sequence.generated_tokens,
            seed: sequence.seed,
            input_length: sequence.prompt_tokens,
        }
    }
}

impl<'a> StreamEvent<'a> {
    /// One that is not the last.
    fn new(token: &'a TokenText, tokenizer: &Tokenizer) -> Self {
        Self {
            index: token.number,
            token: TokenObject::new(token),
            top_tokens: top_tokens(tokenizer, &token.token.top),
            generated_text: None,
            details: None,
        }
    }
}

impl EventWriter for NativeWriter {
    fn step(&mut self, _index: usize, sequence: &Running, step: &Step, out: &mut BytesMut) {
        self.text.push_str(sequence.piece());
        for token in self.texts.known(sequence, step) {
            let finish = step
                .finish
                .filter(|_| token.number == sequence.generated_tokens);
            let data = StreamEvent {
                generated_text: finish.map(|_| self.text.as_str()),
                details: finish
                    .filter(|_| self.with_details)
                    .map(|finish| StreamDetails::new(sequence, finish)),
                ..StreamEvent::new(&token, &sequence.tokenizer)
            };
            event(out, &data);
        }
    }

    fn end(&mut self, _sequences: &[Running], _out: &mut BytesMut) {}

    fn error(&mut self, error: &ApiError, sequences: &[Running], out: &mut BytesMut) {
        // A native stream has one sequence.
        if let Some(sequence) = sequences.first() {
            for token in self.texts.rest() {
                event(out, &StreamEvent::new(&token, &sequence.tokenizer));
            }
        }
        event(out, &error.native_body());
    }
}
