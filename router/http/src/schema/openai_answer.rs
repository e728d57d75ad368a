//! Answers of the OpenAI routes, and the objects that their events share.

use std::{borrow::Cow, time::SystemTime};

use ribbon_core::{FinishReason, Token};
use ribbon_text::Tokenizer;
use serde::Serialize;
use utoipa::ToSchema;

use super::chat_message::Message;
use crate::{
    answer::Answer,
    choices::Choices,
    collect::Collected,
    running::Running,
    schema::{
        completion_logprobs::{CompletionLogprobs, likeliest},
        prompt_logprobs::PromptLogprobs,
    },
    settings::HttpSettings,
};

/// Chat or plain completions: the same answers under different names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Chat,
    Completion,
}

/// What every object of one answer begins with.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Head {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    system_fingerprint: String,
}

impl Head {
    /// A new id; `model` is echoed unless it is `tgi`.
    pub(crate) fn new(
        kind: Kind,
        is_stream: bool,
        model: Option<&str>,
        settings: &HttpSettings,
    ) -> Self {
        let (prefix, object) = match (kind, is_stream) {
            (Kind::Chat, false) => ("chatcmpl", "chat.completion"),
            (Kind::Chat, true) => ("chatcmpl", "chat.completion.chunk"),
            (Kind::Completion, _) => ("cmpl", "text_completion"),
        };
        let model = settings.shown_model(model);
        let label = settings.docker_label.as_deref().unwrap_or("native");
        Self {
            id: format!("{prefix}-{}", uuid::Uuid::new_v4().simple()),
            object,
            created: SystemTime::UNIX_EPOCH
                .elapsed()
                .map_or(0, |since| since.as_secs()),
            model: model.to_owned(),
            system_fingerprint: format!("{}-{label}", env!("CARGO_PKG_VERSION")),
        }
    }
}

#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(super) struct Usage {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u32,
    prompt_tokens_details: PromptDetails,
    /// Where the model is known to think.
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_tokens_details: Option<CompletionDetails>,
}

#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
struct CompletionDetails {
    reasoning_tokens: u32,
}

impl CompletionDetails {
    /// With what one more sequence thought.
    fn plus(sum: Option<Self>, sequence: &Running) -> Option<Self> {
        let answer = sequence
            .answer
            .as_ref()
            .filter(|answer| answer.has_reasoning);
        let before = sum.map(|sum| sum.reasoning_tokens);
        let tokens = answer.map(|answer| answer.reasoning_tokens + before.unwrap_or(0));
        tokens
            .or(before)
            .map(|reasoning_tokens| Self { reasoning_tokens })
    }
}

#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
struct PromptDetails {
    cached_tokens: u32,
}

impl Usage {
    const NONE: Self = Self {
        prompt_tokens: 0,
        completion_tokens: 0,
        total_tokens: 0,
        prompt_tokens_details: PromptDetails { cached_tokens: 0 },
        completion_tokens_details: None,
    };

    /// Of one answer: a prompt counts once, however many choices it has.
    pub(super) fn of<'a>(sequences: impl IntoIterator<Item = &'a Running>) -> Self {
        let sequences = sequences.into_iter();
        sequences.fold(Self::NONE, |sum, one| sum.plus(one.reported_prompt(), one))
    }

    /// Of one choice, with its prompt.
    pub(super) fn of_choice(sequence: &Running) -> Self {
        Self::NONE.plus(sequence.read_prompt(), sequence)
    }

    fn plus(self, (prompt_tokens, cached_tokens): (u32, u32), sequence: &Running) -> Self {
        let cached_tokens = self.prompt_tokens_details.cached_tokens + cached_tokens;
        Self {
            prompt_tokens: self.prompt_tokens + prompt_tokens,
            completion_tokens: self.completion_tokens + sequence.generated_tokens,
            total_tokens: self.total_tokens + prompt_tokens + sequence.generated_tokens,
            prompt_tokens_details: PromptDetails { cached_tokens },
            completion_tokens_details: CompletionDetails::plus(
                self.completion_tokens_details,
                sequence,
            ),
        }
    }
}

/// What the choices of an answer show beside what was generated.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    pub(crate) kind: Kind,
    /// Logprobs, with so many top tokens beside each token.
    pub(crate) logprobs: Option<u32>,
    /// Scores of the prompt, with so many top tokens beside each token.
    pub(crate) prompt_logprobs: Option<u32>,
    /// The prompts, where the choices begin with them.
    pub(crate) echo: Vec<String>,
}

impl Look {
    /// What the choice of a sequence begins with; `run` sequences have one prompt.
    pub(super) fn echoed(&self, index: usize, run: u32) -> &str {
        let prompt = self.echo.get(index / run.max(1) as usize);
        prompt.map_or("", String::as_str)
    }

    /// Scores of a sequence's prompt, at the place where answers of this kind have them (vLLM's).
    fn prompt_logprobs(&self, kind: Kind, sequence: &Running) -> Option<PromptLogprobs> {
        let num_top = self.prompt_logprobs.filter(|_| self.kind == kind)?;
        Some(PromptLogprobs::of(sequence, num_top))
    }
}

/// `logprobs` of a choice.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Logprobs {
    Chat { content: Vec<TokenLogprob> },
    Completion(CompletionLogprobs),
}

#[derive(Debug, Serialize)]
pub(super) struct TokenLogprob {
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
    pub(super) fn new(tokenizer: &Tokenizer, token: &Token, num_top: u32) -> Self {
        let bytes = |id| tokenizer.bytes_of(id).map(<[u8]>::to_vec);
        let top = |&(id, logprob): &(u32, f32)| TopLogprob {
            token: tokenizer.text_of(id),
            logprob,
            bytes: bytes(id),
        };
        Self {
            token: tokenizer.text_of(token.id),
            logprob: token.logprob,
            bytes: bytes(token.id),
            top_logprobs: likeliest(&token.top, num_top).iter().map(top).collect(),
        }
    }
}

/// The part of a choice that differs: chat says it in a message (or delta), completions in `text`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Said<'a> {
    Message(Message),
    Delta(Message),
    Text(Cow<'a, str>),
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Choice<'a> {
    pub(super) index: usize,
    #[serde(flatten)]
    #[schema(value_type = Object)]
    pub(super) said: Said<'a>,
    #[schema(value_type = Option<Object>)]
    pub(super) logprobs: Option<Logprobs>,
    pub(super) finish_reason: Option<&'static str>,
    /// Of a completion, where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    pub(super) prompt_logprobs: Option<PromptLogprobs>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OpenAiAnswer)]
pub(crate) struct Object<'a> {
    #[serde(flatten)]
    pub(super) head: &'a Head,
    pub(super) choices: &'a [Choice<'a>],
    pub(super) usage: Option<Usage>,
    /// Of a conversation, which is one for all choices, where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    pub(super) prompt_logprobs: Option<PromptLogprobs>,
}

/// Logprobs of all tokens, those of an echoed prompt first.
fn logprobs(collected: &Collected, look: &Look, echoed: &str) -> Option<Logprobs> {
    let num_top = look.logprobs?;
    let tokenizer = &collected.running.tokenizer;
    let tokens = collected.tokens.iter();
    if look.kind == Kind::Chat {
        let content = tokens.map(|t| TokenLogprob::new(tokenizer, &t.token, num_top));
        return Some(Logprobs::Chat {
            content: content.collect(),
        });
    }
    let mut lists = CompletionLogprobs::default();
    lists.push_prompt(&collected.running, num_top, echoed);
    let begin = echoed.chars().count();
    for t in tokens {
        lists.push(tokenizer, &t.token, num_top, begin + t.place);
    }
    Some(Logprobs::Completion(lists))
}

/// A sequence that ended by itself after it had called tools is said to have ended for them.
pub(super) fn spelled(finish: FinishReason, sequence: &Running) -> &'static str {
    let answer = sequence.answer.as_ref();
    let has_calls = answer.is_some_and(Answer::has_whole_calls);
    match finish {
        FinishReason::Length => "length",
        FinishReason::EosToken | FinishReason::StopSequence if has_calls => "tool_calls",
        FinishReason::EosToken | FinishReason::StopSequence => "stop",
    }
}

/// The body of a complete answer, choices in the order of their prompts. `choices` says which of `ranked` are shown.
pub(crate) fn body(
    head: &Head,
    look: &Look,
    (choices, ranked): (Choices, &[Collected]),
) -> Vec<u8> {
    let kept = ranked.iter().enumerate();
    let kept = kept.filter(|(place, _)| choices.keeps(*place));
    let choices: Vec<Choice<'_>> = kept
        .enumerate()
        .map(|(index, (place, one))| choice(index, one, look, look.echoed(place, choices.run)))
        .collect();
    let usage = Some(Usage::of(ranked.iter().map(|one| &one.running)));
    let mut bytes = Vec::with_capacity(512);
    // Writing plain structs to memory does not fail; an empty body would show it if it did.
    serde_json::to_writer(
        &mut bytes,
        &Object {
            head,
            choices: &choices,
            usage,
            prompt_logprobs: ranked
                .first()
                .and_then(|one| look.prompt_logprobs(Kind::Chat, &one.running)),
        },
    )
    .unwrap_or_default();
    bytes
}

fn choice<'a>(index: usize, one: &'a Collected, look: &Look, echoed: &str) -> Choice<'a> {
    Choice {
        index,
        said: match look.kind {
            Kind::Chat => Said::Message(Message::whole(one)),
            Kind::Completion => Said::Text(behind(echoed, &one.text)),
        },
        logprobs: logprobs(one, look, echoed),
        finish_reason: Some(spelled(one.finish, &one.running)),
        prompt_logprobs: look.prompt_logprobs(Kind::Completion, &one.running),
    }
}

/// A text behind its prompt, if that is echoed.
pub(super) fn behind<'a>(echoed: &str, text: &'a str) -> Cow<'a, str> {
    if echoed.is_empty() {
        text.into()
    } else {
        (echoed.to_owned() + text).into()
    }
}
