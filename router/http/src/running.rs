//! One sequence being generated: tokens in, text out, with its stop strings, its end and its clock. Dropping it cancels it.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use ribbon_core::{
    FinishReason, SequenceRequest, StreamError, Token, TokenEvent, TokenScore, TokenStream,
};
use ribbon_text::{AnswerRules, StopStrings, Tokenizer};
use tokio::time::Instant;

use crate::{
    answer::Answer,
    error::{ApiError, Cause},
    instruments::{Instruments, Tally, Timings},
    state::AppState,
    wish::Dialect,
    writing::Writing,
};

/// What a sequence inherits from its request.
pub(crate) struct Origin {
    pub(crate) dialect: Dialect,
    pub(crate) stops: StopStrings,
    pub(crate) tally: Arc<Tally>,
    /// It is not the first sequence of its prompt.
    pub(crate) shares_prompt: bool,
    /// Its text begins anew, and does not go on where the prompt ends.
    pub(crate) answers_apart: bool,
    /// Its tokens come all at once, when they were found.
    pub(crate) is_replayed: bool,
    /// What to look for in the answer.
    pub(crate) rules: AnswerRules,
    /// The prompt ends inside of what the model thinks.
    pub(crate) is_thinking: bool,
}

/// A sequence that the engine took.
pub(crate) struct Running {
    /// Gone once the sequence has ended.
    tokens: Option<TokenStream>,
    writing: Writing,
    dialect: Dialect,
    /// Absent where an answer is text and nothing else.
    pub(crate) answer: Option<Answer>,
    pub(crate) tokenizer: Arc<Tokenizer>,
    prompt: Arc<[u32]>,
    /// Scores of the prompt's tokens from the second on, once the first token came, where asked for.
    prompt_scores: Option<Box<[TokenScore]>>,
    /// The prompt's states as one vector, where asked for.
    pooled: Option<Box<[f32]>>,
    /// The model is through with the prompt.
    is_prompt_read: bool,
    pub(crate) prompt_tokens: u32,
    pub(crate) generated_tokens: u32,
    /// Prompt tokens that did not have to be computed.
    pub(crate) cached_tokens: u32,
    /// Another sequence of the request has the same prompt, which counts once.
    shares_prompt: bool,
    max_new_tokens: u32,
    /// Absent when greedy.
    pub(crate) seed: Option<u64>,
    clock: Clock,
    tally: Arc<Tally>,
}

/// One generated token, whose text is [`Running::piece`]; none where only the prompt was to be read.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) token: Option<Token>,
    pub(crate) is_special: bool,
    pub(crate) finish: Option<FinishReason>,
}

impl Running {
    /// A sequence that gives `tokens` for `request`.
    pub(crate) fn new(
        state: &AppState,
        request: &SequenceRequest,
        tokens: TokenStream,
        origin: Origin,
    ) -> Self {
        let tokenizer = state.text.tokenizer.clone();
        Self {
            writing: Writing::new(&tokenizer, request, &origin),
            answer: Answer::new(&origin.rules, origin.is_thinking),
            dialect: origin.dialect,
            tokenizer,
            prompt: request.prompt.clone(),
            prompt_scores: None,
            pooled: None,
            is_prompt_read: false,
            prompt_tokens: request.prompt.len() as u32,
            generated_tokens: 0,
            cached_tokens: 0,
            shares_prompt: origin.shares_prompt,
            max_new_tokens: request.max_new_tokens,
            seed: (!request.sampling.greedy).then_some(request.sampling.seed),
            clock: Clock::start(&origin, state.instruments.clone()),
            tally: origin.tally,
            tokens: Some(tokens),
        }
    }

    /// The next token; `None` after the last.
    ///
    /// # Errors
    /// The engine gave the sequence up.
    pub(crate) async fn next(&mut self) -> Result<Option<Step>, ApiError> {
        poll_fn(|cx| self.poll_step(cx)).await.transpose()
    }

    /// Polls for the next token.
    pub(crate) fn poll_step(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Step, ApiError>>> {
        let Some(tokens) = &mut self.tokens else {
            return Poll::Ready(None);
        };
        let step = match ready!(tokens.as_mut().poll_next(cx)) {
            Some(Ok(event)) => Ok(self.advance(event)),
            Some(Err(error)) => Err(self.broken(error)),
            None => Err(self.incomplete()),
        };
        Poll::Ready(Some(step))
    }

    /// Text that the last token completed, special tokens left out.
    pub(crate) fn piece(&self) -> &str {
        self.writing.piece()
    }

    /// Characters of what was generated before the last token's text; what stop strings take away counts.
    pub(crate) fn place(&self) -> usize {
        self.writing.place()
    }

    /// Whether the last token ends inside a character.
    pub(crate) fn is_amid_character(&self) -> bool {
        self.writing.is_amid_character()
    }

    /// The prompt's tokens with their scores, where asked for; the first one has none.
    pub(crate) fn scored_prompt(&self) -> impl Iterator<Item = (u32, Option<&TokenScore>)> {
        let scores = self.prompt_scores.as_ref().into_iter();
        scores.flat_map(|scores| {
            let scores = std::iter::once(None).chain(scores.iter().map(Some));
            self.prompt.iter().copied().zip(scores)
        })
    }

    /// The prompt's states as one vector, where asked for, once it was read.
    pub(crate) fn pooled(&self) -> &[f32] {
        self.pooled.as_deref().unwrap_or_default()
    }

    /// Whether the last token completed anything that a chat answer shows.
    pub(crate) fn says_something(&self) -> bool {
        match &self.answer {
            Some(answer) => !answer.parts().is_empty(),
            None => !self.piece().is_empty(),
        }
    }

    /// Prompt tokens to report, and how many of them were cached: a prompt counts once it was read, and once however many
    /// sequences it has.
    pub(crate) fn reported_prompt(&self) -> (u32, u32) {
        if self.shares_prompt {
            return (0, 0);
        }
        self.read_prompt()
    }

    /// Prompt tokens that were read, and how many of them were cached, whoever else has the prompt.
    pub(crate) fn read_prompt(&self) -> (u32, u32) {
        if self.is_prompt_read {
            (self.prompt_tokens, self.cached_tokens)
        } else {
            (0, 0)
        }
    }

    /// Whether times of this sequence are reported: those of one prompt run side by side.
    pub(crate) fn reports_time(&self) -> bool {
        !self.shares_prompt
    }

    /// Where the time went; complete once the last token is there.
    pub(crate) fn timings(&self) -> Timings {
        self.clock.timings(self.generated_tokens)
    }

    /// One more token, or none; the first event says that the prompt was read.
    fn count(&mut self, event: &TokenEvent) {
        let now = self.clock.touch(event.queued);
        if event.token.is_some() {
            self.clock.tick(now);
            self.generated_tokens += 1;
            self.tally.token_generated();
        }
        if !std::mem::replace(&mut self.is_prompt_read, true) {
            self.tally.prompt_read(self.reported_prompt().0);
        }
    }

    fn advance(&mut self, event: TokenEvent) -> Step {
        self.count(&event);
        let token = event.token.as_ref().map(|token| token.id);
        let (number, is_last) = (self.generated_tokens, event.finish.is_some());
        let stopped = token.is_some_and(|id| self.writing.write(id, number, is_last));
        self.cached_tokens = event.cached_tokens;
        if event.prompt.is_some() {
            self.prompt_scores = event.prompt;
        }
        self.pooled = event.pooled;
        let mut finish = self.finish(event.finish, stopped);
        if let (Some(answer), Some(_)) = (&mut self.answer, token) {
            finish = answer.take(self.writing.piece(), finish);
        }
        if finish.is_some()
            && let Some(mut tokens) = self.tokens.take()
        {
            tokens.as_mut().enough();
        }
        Step {
            is_special: token.is_some_and(|id| self.tokenizer.is_special(id)),
            token: event.token,
            finish,
        }
    }

    fn finish(&self, finish: Option<FinishReason>, stopped: bool) -> Option<FinishReason> {
        let finish = if stopped {
            Some(FinishReason::StopSequence)
        } else {
            finish
        };
        let is_last_allowed = self.generated_tokens >= self.max_new_tokens;
        match (finish, self.dialect) {
            (Some(_), Dialect::Native) if is_last_allowed => Some(FinishReason::Length),
            (finish, _) => finish,
        }
    }

    fn broken(&mut self, error: StreamError) -> ApiError {
        self.tokens = None;
        error.into()
    }

    fn incomplete(&mut self) -> ApiError {
        self.tokens = None;
        let message = format!(
            "the tokens ended after {} without a finish reason",
            self.generated_tokens
        );
        ApiError::new(Cause::Incomplete, message)
    }
}

/// When things happened to one sequence.
struct Clock {
    arrived: Instant,
    submitted: Instant,
    last_event: Option<Instant>,
    last_token: Option<Instant>,
    queued: Duration,
    /// Times between its tokens say nothing.
    is_replayed: bool,
    instruments: Arc<Instruments>,
}

impl Clock {
    fn start(origin: &Origin, instruments: Arc<Instruments>) -> Self {
        Self {
            arrived: origin.tally.arrived,
            is_replayed: origin.is_replayed,
            submitted: Instant::now(),
            last_event: None,
            last_token: None,
            queued: Duration::ZERO,
            instruments,
        }
    }

    /// The engine says something, now.
    fn touch(&mut self, queued: Duration) -> Instant {
        self.queued = queued;
        *self.last_event.insert(Instant::now())
    }

    /// It was a token.
    fn tick(&mut self, now: Instant) {
        match self.last_token.replace(now) {
            Some(_) if self.is_replayed => {}
            Some(before) => self.instruments.inter_token.record(now - before),
            None => self
                .instruments
                .time_to_first_token
                .record(now - self.arrived),
        }
        self.instruments.skipped_tokens.record(0.0);
    }

    fn timings(&self, generated_tokens: u32) -> Timings {
        let end = self.last_event.unwrap_or(self.submitted);
        Timings {
            validation: self.submitted - self.arrived,
            queue: self.queued,
            inference: (end - self.submitted).saturating_sub(self.queued),
            generated_tokens,
        }
    }
}
