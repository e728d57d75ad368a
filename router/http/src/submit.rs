//! From a checked wish to running sequences: template and tokenization on a worker, limits, then the engine.

use std::sync::Arc;

use jiff::Zoned;
use ribbon_core::{Engine, SequenceRequest, TokenStream};
use ribbon_text::{Rendering, SpecialTokens, StopStrings};
use serde_json::Value;

use crate::{
    error::{ApiError, Cause},
    instruments::Tally,
    running::{Origin, Running},
    schema::message::continued,
    state::{AppState, ModelText},
    wish::{Model, Wish, check_token_id},
};

/// What the model shall read.
#[derive(Debug)]
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
    pub(crate) traceparent: Option<Arc<str>>,
}

/// A request that the engine took.
pub(crate) struct Submitted {
    /// One per prompt.
    pub(crate) sequences: Vec<Running>,
    /// Characters of the prompts as the model reads them.
    pub(crate) characters: usize,
}

/// Hands a request to its engine.
///
/// # Errors
/// The engine is not ready or full, the template or tokenizer fails, or a limit does not fit.
pub(crate) async fn submit(
    state: &AppState,
    tally: &Arc<Tally>,
    request: Submission,
) -> Result<Submitted, ApiError> {
    let Submission {
        wish,
        source,
        model,
        traceparent,
    } = request;
    let engine = state.engines.get(model.as_deref());
    let model = ready_model(engine.as_ref())?;
    engine.room(0)?;
    wish.check(&model.limits)?;
    let text = state.text.clone();
    let prepared = state.workers.run(move || prepare(&text, source)).await??;
    let stops = StopStrings::new(wish.stops.iter().map(String::as_str));
    let sequence = |(choice, prompt): (usize, Vec<u32>)| {
        prompt
            .iter()
            .try_for_each(|&id| check_token_id("prompt", id, &model.limits))?;
        Ok(SequenceRequest {
            traceparent: traceparent.clone(),
            ..wish.sequence(wish.truncated(prompt), choice as u32, &model)?
        })
    };
    let prompts = prepared.prompts.into_iter().enumerate();
    let group: Vec<SequenceRequest> = prompts.map(sequence).collect::<Result<_, ApiError>>()?;
    let streams = engine.submit(group.clone())?;
    let running = |(request, tokens): (&SequenceRequest, TokenStream)| {
        state.instruments.admitted(request);
        let origin = Origin {
            dialect: wish.dialect,
            stops: stops.clone(),
            arrived: tally.arrived,
        };
        Running::new(state, request, tokens, origin)
    };
    Ok(Submitted {
        sequences: group.iter().zip(streams).map(running).collect(),
        characters: prepared.characters,
    })
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
fn prepare(text: &ModelText, source: Source) -> Result<Prepared, ApiError> {
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
