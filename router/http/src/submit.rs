//! From a checked wish to running sequences: template and tokenization on a worker, limits, then the engine.

use std::sync::Arc;

use ribbon_core::{Engine, Refusal, SequenceRequest, TokenStream};
use ribbon_text::{AnswerRules, ChatTemplate, SHORT_BYTES, SpecialTokens, StopStrings, Tokenizer};

use crate::{
    beams,
    beginning::exceeds,
    caller::Caller,
    choices::Choices,
    conversation::Conversation,
    error::{ApiError, Cause},
    grammar,
    instruments::Tally,
    running::{Origin, Running},
    state::{AppState, ModelText},
    wish::{Longest, Model, Wish, check_token_id},
    writing::Writing,
};

/// What the model shall read.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// Plain prompts; the tokenizer adds its special tokens.
    Texts(Vec<String>),
    /// Prompts that are tokens already.
    Ids(Vec<Vec<u32>>),
    /// A conversation, for the chat template.
    Chat(Box<Conversation>),
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

    /// The same prompts in parts of at most so many.
    pub(crate) fn parts(self, size: usize) -> Vec<Self> {
        let size = size.max(1);
        match self {
            Self::Texts(texts) => texts
                .chunks(size)
                .map(|part| Self::Texts(part.to_vec()))
                .collect(),
            Self::Ids(prompts) => prompts
                .chunks(size)
                .map(|part| Self::Ids(part.to_vec()))
                .collect(),
            Self::Chat(_) => vec![self],
        }
    }

    /// To hand it to another thread would take longer than to tokenize it.
    fn is_quick(&self) -> bool {
        match self {
            Self::Texts(_) => self.bytes() < SHORT_BYTES as u64,
            Self::Ids(_) => true,
            Self::Chat(_) => false,
        }
    }

    /// Bytes of text.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Self::Texts(texts) => texts.iter().map(|text| text.len() as u64).sum(),
            Self::Ids(_) => 0,
            Self::Chat(conversation) => conversation.bytes(),
        }
    }

    /// What to look for in the answers.
    fn rules(&self, template: Option<&ChatTemplate>) -> AnswerRules {
        match self {
            Self::Texts(_) | Self::Ids(_) => AnswerRules::default(),
            Self::Chat(conversation) => conversation.rules(template),
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

/// Where the search behind a prompt begins.
fn start(state: &AppState, first: &SequenceRequest, origin: &Origin) -> beams::Start {
    beams::Start {
        writing: Writing::watching(&state.text.tokenizer, first, origin),
        request: first.clone(),
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
    check_room(state, engine.as_ref(), &request)?;
    request.wish.check(&model)?;
    let rules = request.source.rules(state.text.template.as_ref());
    let longest = request.wish.longest_text(&model.limits);
    let Submission {
        wish,
        source,
        caller,
        user,
        ..
    } = request;
    let prepared = caller.in_time(prepare(state, source, longest)).await??;
    let asked = SequenceOrigin {
        tenant: caller.tenant(user.as_deref(), &state.names),
        caller,
        wish: &wish,
        model: &model,
    };
    let is_thinking = prepared.is_thinking(&rules);
    let mut group = asked.group(prepared.prompts)?;
    if let Some(grammar) = wish.grammar.clone() {
        let grammar = grammar.behind_thought(is_thinking, &rules, &state.text.tokenizer)?;
        let checking = grammar::checked(state, grammar, &model);
        grammar::attach(&asked.caller.in_time(checking).await??, &mut group);
    }
    let stops = StopStrings::new(wish.stops.iter().map(String::as_str));
    let per_prompt = wish.choices.run.max(1) as usize;
    let origin = |index: usize| Origin {
        dialect: wish.dialect,
        stops: stops.clone(),
        tally: tally.clone(),
        shares_prompt: !index.is_multiple_of(per_prompt),
        answers_apart: model.description.prompt_runs.is_whole(),
        is_replayed: wish.beams.is_some(),
        rules: rules.clone(),
        is_thinking,
    };
    let streams = match wish.beams {
        None => engine.submit(group.clone())?,
        Some(beams) => {
            let firsts = group.iter().step_by(per_prompt);
            let starts = firsts
                .map(|first| start(state, first, &origin(0)))
                .collect();
            beams::begin(engine.as_ref(), (beams, wish.choices.run), starts)?
        }
    };
    let running = |(index, (request, tokens)): (usize, (&SequenceRequest, TokenStream))| {
        state.instruments.admitted(request);
        Running::new(state, request, tokens, origin(index))
    };
    let pairs = group.iter().zip(streams).enumerate();
    Ok(Submitted {
        sequences: pairs.map(running).collect(),
        choices: wish.choices,
        characters: prepared.characters,
    })
}

/// Before the work of tokenizing, by what the text will have on average; the engine asks again, knowing it.
fn check_room(state: &AppState, engine: &dyn Engine, request: &Submission) -> Result<(), ApiError> {
    let tokens = |bytes| state.bytes_per_token.tokens(bytes);
    let expected = request.source.tokens(request.wish.truncate, tokens);
    let room = engine.room(expected);
    room.map_err(|refusal| explained(refusal, request.source.bytes(), expected))
}

/// Renders and tokenizes, and learns how many bytes a token has.
async fn prepare(
    state: &AppState,
    source: Source,
    longest: Option<Longest>,
) -> Result<Prepared, ApiError> {
    let (bytes, text) = (source.bytes(), state.text.clone());
    let is_quick = source.is_quick();
    let work = move || prepare_here(&text, source, longest.as_ref());
    let prepared = if is_quick {
        work()?
    } else {
        state.work(bytes, work).await??
    };
    if bytes > 0 {
        let tokens = prepared.prompts.iter().map(|prompt| prompt.len() as u64);
        state.bytes_per_token.learn(bytes, tokens.sum());
    }
    Ok(prepared)
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
            let (name, _) = self.wish.dialect.names();
            prompt
                .iter()
                .try_for_each(|&id| check_token_id(name, id, limits))?;
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
    /// The end of a rendered prompt.
    ending: String,
}

impl Prepared {
    /// Whether the prompt ends inside of what the model thinks.
    fn is_thinking(&self, rules: &AnswerRules) -> bool {
        rules
            .reasoning
            .is_some_and(|format| format.is_open(&self.ending))
    }
}

/// Bytes of a prompt's end that are kept.
const ENDING_BYTES: usize = 64;

/// On the calling thread.
fn prepare_here(
    text: &ModelText,
    source: Source,
    longest: Option<&Longest>,
) -> Result<Prepared, ApiError> {
    match source {
        Source::Ids(prompts) => Ok(Prepared {
            prompts,
            characters: 0,
            ending: String::new(),
        }),
        Source::Texts(texts) => {
            let encode = |prompt: &String| {
                check_length(text, prompt, longest)?;
                Ok(text.tokenizer.encode(prompt, SpecialTokens::Add)?)
            };
            let prompts: Result<_, ApiError> = texts.iter().map(encode).collect();
            Ok(Prepared {
                prompts: prompts?,
                characters: texts.iter().map(|text| text.chars().count()).sum(),
                ending: String::new(),
            })
        }
        Source::Chat(conversation) => {
            let prompt = conversation.render(text.template.as_ref())?;
            let shown = prompt.text();
            check_length(text, &shown, longest)?;
            let end = shown.ceil_char_boundary(shown.len().saturating_sub(ENDING_BYTES));
            Ok(Prepared {
                prompts: vec![prompt.encode(&text.tokenizer)?],
                characters: shown.chars().count(),
                ending: shown.get(end..).unwrap_or_default().to_owned(),
            })
        }
    }
}

/// Refuses a text that certainly has too many tokens.
fn check_length(text: &ModelText, prompt: &str, longest: Option<&Longest>) -> Result<(), ApiError> {
    match longest {
        Some(longest) if exceeds(&text.tokenizer, prompt, longest.tokens)? => {
            Err(longest.exceeded_by(prompt))
        }
        _ => Ok(()),
    }
}
