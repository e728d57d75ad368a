//! Answers and events of the OpenAI routes.

use std::time::SystemTime;

use bytes::{BufMut, BytesMut};
use ribbon_core::{FinishReason, Token};
use ribbon_text::Tokenizer;
use serde::Serialize;

use crate::{
    collect::Collected,
    error::ApiError,
    running::{Running, Step},
    schema::openai::UsageReport,
    settings::HttpSettings,
    sse::{EventWriter, event},
};

/// Chat or plain completions: the same answers under different names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Chat,
    Completion,
}

/// What every object of one answer begins with.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Head {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    system_fingerprint: String,
}

impl Head {
    /// A new id; `model` is echoed unless it is `tgi`.
    pub(crate) fn new(kind: Kind, is_stream: bool, model: Option<&str>, settings: &HttpSettings) -> Self {
        let (prefix, object) = match (kind, is_stream) {
            (Kind::Chat, false) => ("chatcmpl", "chat.completion"),
            (Kind::Chat, true) => ("chatcmpl", "chat.completion.chunk"),
            (Kind::Completion, _) => ("cmpl", "text_completion"),
        };
        let model = model.filter(|name| *name != "tgi").unwrap_or(&settings.model_id);
        let label = settings.docker_label.as_deref().unwrap_or("native");
        Self {
            id: format!("{prefix}-{}", uuid::Uuid::new_v4().simple()),
            object,
            created: SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs()),
            model: model.to_owned(),
            system_fingerprint: format!("{}-{label}", env!("CARGO_PKG_VERSION")),
        }
    }
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Usage {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u32,
}

impl Usage {
    fn of<'a>(sequences: impl IntoIterator<Item = &'a Running>) -> Self {
        let zero = Self { prompt_tokens: 0, completion_tokens: 0, total_tokens: 0 };
        sequences.into_iter().fold(zero, |sum, sequence| Self {
            prompt_tokens: sum.prompt_tokens + sequence.prompt_tokens,
            completion_tokens: sum.completion_tokens + sequence.generated_tokens,
            total_tokens: sum.total_tokens + sequence.prompt_tokens + sequence.generated_tokens,
        })
    }
}

#[derive(Debug, Serialize)]
struct Logprobs {
    content: Vec<TokenLogprob>,
}

#[derive(Debug, Serialize)]
struct TokenLogprob {
    token: String,
    logprob: f32,
    bytes: Option<Vec<u8>>,
    top_logprobs: Vec<TopLogprob>,
}

#[derive(Debug, Serialize)]
struct TopLogprob {
    token: String,
    logprob: f32,
    bytes: Option<Vec<u8>>,
}

impl TokenLogprob {
    fn new(tokenizer: &Tokenizer, token: &Token) -> Self {
        let bytes = |id| tokenizer.bytes_of(id).map(<[u8]>::to_vec);
        let top = |&(id, logprob): &(u32, f32)| TopLogprob { token: tokenizer.text_of(id), logprob, bytes: bytes(id) };
        Self {
            token: tokenizer.text_of(token.id),
            logprob: token.logprob,
            bytes: bytes(token.id),
            top_logprobs: token.top.iter().map(top).collect(),
        }
    }
}

#[derive(Debug, Serialize)]
struct Message<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    content: &'a str,
}

/// The part of a choice that differs: chat says it in a message (or delta), completions in `text`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Said<'a> {
    Message(Message<'a>),
    Delta(Message<'a>),
    Text(&'a str),
}

#[derive(Debug, Serialize)]
struct Choice<'a> {
    index: usize,
    #[serde(flatten)]
    said: Said<'a>,
    logprobs: Option<Logprobs>,
    finish_reason: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct Object<'a> {
    #[serde(flatten)]
    head: &'a Head,
    choices: &'a [Choice<'a>],
    usage: Option<Usage>,
}

fn spelled(finish: FinishReason) -> &'static str {
    match finish {
        FinishReason::Length => "length",
        FinishReason::EosToken | FinishReason::StopSequence => "stop",
    }
}

/// The body of a complete answer, choices in the order of their prompts.
pub(crate) fn body(head: &Head, kind: Kind, with_logprobs: bool, collected: &[Collected]) -> Vec<u8> {
    let choice = |(index, collected): (usize, &'_ Collected)| {
        let logprob = |t: &crate::collect::TokenText| TokenLogprob::new(&collected.running.tokenizer, &t.token);
        (index, with_logprobs.then(|| Logprobs { content: collected.tokens.iter().map(logprob).collect() }))
    };
    let logprobs = collected.iter().enumerate().map(choice);
    let choices: Vec<Choice<'_>> = logprobs.zip(collected).map(|((index, logprobs), collected)| Choice {
        index,
        said: match kind {
            Kind::Chat => Said::Message(Message { role: Some("assistant"), content: &collected.text }),
            Kind::Completion => Said::Text(&collected.text),
        },
        logprobs,
        finish_reason: Some(spelled(collected.finish)),
    }).collect();
    let usage = Some(Usage::of(collected.iter().map(|collected| &collected.running)));
    let mut bytes = Vec::with_capacity(512);
    // Writing plain structs to memory does not fail; an empty body would show it if it did.
    serde_json::to_writer(&mut bytes, &Object { head, choices: &choices, usage }).unwrap_or_default();
    bytes
}

/// Writes an OpenAI stream.
pub(crate) struct OpenAiWriter {
    head: Head,
    kind: Kind,
    usage: UsageReport,
    with_logprobs: bool,
    has_begun: bool,
}

impl OpenAiWriter {
    pub(crate) fn new(head: Head, kind: Kind, usage: UsageReport, with_logprobs: bool) -> Self {
        Self { head, kind, usage, with_logprobs, has_begun: false }
    }

    fn said<'a>(&self, text: &'a str) -> Said<'a> {
        match self.kind {
            Kind::Chat => Said::Delta(Message { role: (!self.has_begun).then_some("assistant"), content: text }),
            Kind::Completion => Said::Text(text),
        }
    }

    fn usage(&self, sequence: &Running, is_last: bool) -> Option<Usage> {
        let shown = match self.usage {
            UsageReport::Always => true,
            UsageReport::Default => is_last && self.kind == Kind::Completion,
            UsageReport::AtEnd => false,
        };
        shown.then(|| Usage::of([sequence]))
    }
}

impl EventWriter for OpenAiWriter {
    fn step(&mut self, index: usize, sequence: &Running, step: &Step, out: &mut BytesMut) {
        let says_something = !sequence.piece().is_empty() || step.finish.is_some() || self.with_logprobs;
        if self.has_begun && !says_something {
            return;
        }
        let logprob = || Logprobs { content: vec![TokenLogprob::new(&sequence.tokenizer, &step.token)] };
        let choice = Choice {
            index,
            said: self.said(sequence.piece()),
            logprobs: self.with_logprobs.then(logprob),
            finish_reason: step.finish.map(spelled),
        };
        let usage = self.usage(sequence, step.finish.is_some());
        event(out, &Object { head: &self.head, choices: &[choice], usage });
        self.has_begun = true;
    }

    fn end(&mut self, sequences: &[Running], out: &mut BytesMut) {
        if self.usage != UsageReport::Default {
            event(out, &Object { head: &self.head, choices: &[], usage: Some(Usage::of(sequences)) });
        }
        out.put_slice(b"data: [DONE]\n\n");
    }

    fn error(&mut self, error: &ApiError, out: &mut BytesMut) {
        event(out, &error.openai_body());
        out.put_slice(b"data: [DONE]\n\n");
    }
}
