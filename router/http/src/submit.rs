//! From a checked wish to running sequences: template and tokenization on a worker, limits, then the engine.

use std::sync::Arc;

use jiff::Zoned;
use ribbon_core::{Engine, Refusal, SequenceRequest, TokenStream};
use ribbon_text::{Rendering, SpecialTokens, StopStrings, Tokenizer};
use serde_json::Value;

use crate::{
    beginning::exceeds,
    caller::Caller,
    choices::Choices,
    error::{ApiError, Cause},
    instruments::Tally,
    running::{Origin, Running},
    schema::message::continued,
    state::{AppState, ModelText},
    wish::{Longest, Model, Wish, check_token_id},
};

/// What the model shall read.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// Plain prompts; the tokenizer adds its special tokens.
    Texts(Vec<String>),
    /// Prompts that are tokens already.
    Ids(Vec<Vec<u32>>),
    /// A conversation, for the chat template.
    Chat(Vec<Value>),
}

/// A request on its way to the engine.
pub(crate) struct Submission {
    pub(crate) wish: Wish,
    pub(crate) source: Source,
    pub(crate) model: Option<String>,
    pub(crate) caller: Caller,
    /// The caller's own name for whom it asks.
    pub(crate) user: Option<String>,
}

/// A request that the engine took.
pub(crate) struct Submitted {
    /// So many per prompt as `choices` says, in the order of the prompts.
    pub(crate) sequences: Vec<Running>,
    pub(crate) choices: Choices,
    /// Characters of the prompts as the model reads them.
    pub(crate) characters: usize,
}

impl Source {
    /// The prompts as an answer echoes them; none of a conversation. The limits were checked.
    pub(crate) fn shown(self, tokenizer: &Tokenizer) -> Vec<String> {
        match self {
            Self::Texts(texts) => texts,
            Self::Ids(prompts) => prompts.iter().map(|ids| tokenizer.decode(ids)).collect(),
            Self::Chat(_) => Vec::new(),
        }
    }

    /// Bytes of text.
    fn bytes(&self) -> u64 {
        match self {
            Self::Texts(texts) => texts.iter().map(|text| text.len() as u64).sum(),
            Self::Ids(_) => 0,
            Self::Chat(messages) => messages.iter().map(text_bytes).sum(),
        }
    }

    /// Tokens that the prompts will have, each cut to its last `truncate`; `of_bytes` says how many a text has.
    fn tokens(&self, truncate: Option<u64>, of_bytes: impl Fn(u64) -> u64) -> u64 {
        let cut = |tokens: u64| truncate.map_or(tokens, |truncate| tokens.min(truncate));
        match self {
            Self::Texts(texts) => texts
                .iter()
                .map(|text| cut(of_bytes(text.len() as u64)))
                .sum(),
            Self::Ids(prompts) => prompts.iter().map(|ids| cut(ids.len() as u64)).sum(),
            Self::Chat(_) => cut(of_bytes(self.bytes())),
        }
    }
}

/// The refusal of a prompt that is not tokenized yet: where its length decided, that it is an estimate.
fn explained(refusal: Refusal, bytes: u64, expected: u64) -> ApiError {
    let by_length = matches!(refusal, Refusal::QueueFull { .. });
    let mut error = ApiError::from(refusal);
    if by_length && bytes > 0 {
        let estimate =
            format!("; this request has about {expected}, estimated by its {bytes} bytes");
        error.message.push_str(&estimate);
    }
    error
}

fn text_bytes(value: &Value) -> u64 {
    match value {
        Value::String(text) => text.len() as u64,
        Value::Array(list) => list.iter().map(text_bytes).sum(),
        Value::Object(map) => map.values().map(text_bytes).sum(),
        _ => 0,
    }
}

/// Hands a request to its engine.
///
/// # Errors
/// The engine is not ready or full, the time is over, the template or tokenizer fails, or a limit does not fit.
pub(crate) async fn submit(
    state: &AppState,
    tally: &Arc<Tally>,
    request: Submission,
) -> Result<Submitted, ApiError> {
    let engine = state.engines.get(request.model.as_deref());
    let model = ready_model(engine.as_ref())?;
    let bytes = request.source.bytes();
    let tokens = |bytes| state.bytes_per_token.tokens(bytes);
    let expected = request.source.tokens(request.wish.truncate, tokens);
    // Before the work of tokenizing, by what the text will have on average; the engine asks again, knowing it.
    let room = engine.room(expected);
    room.map_err(|refusal| explained(refusal, bytes, expected))?;
    request.wish.check(&model.limits)?;
    let text = state.text.clone();
    let longest = request.wish.longest_text(&model.limits);
    let Submission {
        wish,
        source,
        caller,
        user,
        ..
    } = request;
    let preparing = state
        .workers
        .run(bytes, move || prepare(&text, source, longest.as_ref()));
    let prepared = caller.in_time(preparing).await???;
    if bytes > 0 {
        let tokens = prepared.prompts.iter().map(|prompt| prompt.len() as u64);
        state.bytes_per_token.learn(bytes, tokens.sum());
    }
    let asked = SequenceOrigin {
        tenant: caller.tenant(user.as_deref(), &state.names),
        caller,
        wish: &wish,
        model: &model,
    };
    let group = asked.group(prepared.prompts)?;
    let streams = engine.submit(group.clone())?;
    let stops = StopStrings::new(wish.stops.iter().map(String::as_str));
    let running = |(index, (request, tokens)): (usize, (&SequenceRequest, TokenStream))| {
        state.instruments.admitted(request);
        let origin = Origin {
            dialect: wish.dialect,
            stops: stops.clone(),
            arrived: tally.arrived,
            shares_prompt: index % wish.choices.run.max(1) as usize > 0,
        };
        Running::new(state, request, tokens, origin)
    };
    let pairs = group.iter().zip(streams).enumerate();
    Ok(Submitted {
        sequences: pairs.map(running).collect(),
        choices: wish.choices,
        characters: prepared.characters,
    })
}

/// What all sequences of a request have in common.
struct SequenceOrigin<'a> {
    wish: &'a Wish,
    model: &'a Model,
    caller: Caller,
    tenant: Option<Arc<str>>,
}

impl SequenceOrigin<'_> {
    /// The sequences of all prompts, in their order.
    fn group(&self, prompts: Vec<Vec<u32>>) -> Result<Vec<SequenceRequest>, ApiError> {
        let mut group = Vec::new();
        for (index, prompt) in prompts.into_iter().enumerate() {
            let limits = &self.model.limits;
            prompt
                .iter()
                .try_for_each(|&id| check_token_id("prompt", id, limits))?;
            let prompt = self.wish.truncated(prompt);
            let sequences = self.wish.sequences(prompt, index as u32, self.model)?;
            group.extend(sequences.into_iter().map(|request| self.signed(request)));
        }
        Ok(group)
    }

    fn signed(&self, request: SequenceRequest) -> SequenceRequest {
        SequenceRequest {
            traceparent: self.caller.traceparent.clone(),
            tenant: self.tenant.clone(),
            deadline: self.caller.deadline.map(tokio::time::Instant::into_std),
            ..request
        }
    }
}

/// The limits to check against; there are none until a shard was warm.
pub(crate) fn ready_model(engine: &dyn Engine) -> Result<Model, ApiError> {
    match (engine.limits(), engine.description()) {
        (Some(limits), Some(description)) => Ok(Model {
            limits,
            description,
        }),
        _ => Err(ApiError::new(Cause::NotReady, "the model is not ready yet")),
    }
}

struct Prepared {
    prompts: Vec<Vec<u32>>,
    characters: usize,
}

/// Runs on a worker.
fn prepare(
    text: &ModelText,
    source: Source,
    longest: Option<&Longest>,
) -> Result<Prepared, ApiError> {
    let (texts, special) = match source {
        Source::Ids(prompts) => {
            return Ok(Prepared {
                prompts,
                characters: 0,
            });
        }
        Source::Texts(texts) => (texts, SpecialTokens::Add),
        Source::Chat(messages) => (vec![render(text, &messages)?], SpecialTokens::Skip),
    };
    for prompt in &texts {
        if let Some(longest) = longest
            && exceeds(&text.tokenizer, prompt, longest.tokens)?
        {
            return Err(longest.exceeded_by(prompt));
        }
    }
    let characters = texts.iter().map(|text| text.chars().count()).sum();
    let prompts = texts
        .iter()
        .map(|prompt| text.tokenizer.encode(prompt, special))
        .collect::<Result<_, _>>()?;
    Ok(Prepared {
        prompts,
        characters,
    })
}

/// The conversation as a prompt; a last message from the assistant is continued.
fn render(text: &ModelText, messages: &[Value]) -> Result<String, ApiError> {
    let template = text.template.as_ref().ok_or_else(|| {
        ApiError::new(
            Cause::Template,
            "template not found: the model has no chat template",
        )
    })?;
    let marked = continued(messages).map(|content| mark_end(messages, content));
    let prompt = template.render(&Rendering {
        messages: marked.as_deref().unwrap_or(messages),
        add_generation_prompt: marked.is_none(),
        now: Zoned::now(),
    })?;
    match marked {
        Some(_) => cut_at_mark(prompt),
        None => Ok(prompt),
    }
}

/// Where a message to continue ends: a private-use character, since the text itself may also stand in the closing tokens.
const END_MARK: char = '\u{F8FE}';

/// The messages with the last one's text ending in the mark, spaces before it cut as TGI cuts them.
fn mark_end(messages: &[Value], content: &str) -> Vec<Value> {
    let mut marked = messages.to_vec();
    if let Some(text) = marked.last_mut().and_then(|last| last.get_mut("content")) {
        *text = Value::String(format!("{}{END_MARK}", content.trim_end()));
    }
    marked
}

/// The prompt up to the mark, without the turn's closing tokens.
fn cut_at_mark(mut prompt: String) -> Result<String, ApiError> {
    let end = prompt.rfind(END_MARK).ok_or_else(|| {
        ApiError::new(
            Cause::Template,
            "the chat template does not show the last message, so it cannot be continued",
        )
    })?;
    prompt.truncate(end);
    Ok(prompt)
}
