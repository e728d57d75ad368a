//! What a client asked for, in range and independent of the route it came by; and the token limits it must fit.

use std::sync::Arc;

use ribbon_core::{Limits, Pooling, Sampling, SequenceRequest, ShardDescription};
use ribbon_text::StopText;

use crate::{beams::Beams, choices::Choices, error::ApiError, grammar::GrammarWish};

/// Bias of a token that may come only where nothing else may: no score makes up for it, and divided by the least temperature
/// it is still a number.
pub(crate) const LAST_RESORT: f32 = -1e30;

/// Whose habits the answer follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// TGI's: the text ends with the stop string, `length` wins on the last allowed token.
    Native,
    /// OpenAI's: the text ends before the stop string, `stop` wins.
    OpenAi,
    /// The same, where there is no text.
    Embeddings,
}

impl Dialect {
    /// What clients call the prompt, and the limit on what is generated.
    pub(crate) fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Native => ("inputs", "max_new_tokens"),
            Self::OpenAi => ("prompt", "max_tokens"),
            Self::Embeddings => ("input", "max_tokens"),
        }
    }

    pub(crate) fn stop_text(self) -> StopText {
        match self {
            Self::Native => StopText::Keep,
            Self::OpenAi | Self::Embeddings => StopText::Drop,
        }
    }
}

/// Checked parameters of a request.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) sampling: Sampling,
    pub(crate) choices: Choices,
    /// The choices are the best that a search finds.
    pub(crate) beams: Option<Beams>,
    /// Absent: as many as fit. 0: the prompt is read, and that is all.
    pub(crate) max_new_tokens: Option<u64>,
    /// The prompt's states are wanted, as one vector.
    pub(crate) pooling: Option<Pooling>,
    pub(crate) stops: Vec<String>,
    /// Keep so many of the prompt's last tokens.
    pub(crate) truncate: Option<u64>,
    pub(crate) ignore_eos: bool,
    pub(crate) min_tokens: u32,
    pub(crate) stop_token_ids: Vec<u32>,
    pub(crate) grammar: Option<GrammarWish>,
    pub(crate) priority: i32,
    pub(crate) cache_salt: Option<Arc<str>>,
    pub(crate) dialect: Dialect,
    /// The field that asks for the prompt's scores, where one does.
    pub(crate) scored_by: Option<&'static str>,
}

/// The model a request is checked against.
pub(crate) struct Model {
    pub(crate) limits: Arc<Limits>,
    pub(crate) description: Arc<ShardDescription>,
}

/// The limit on a text that is not tokenized yet.
pub(crate) struct Longest {
    pub(crate) tokens: u32,
    /// What clients call the text.
    name: &'static str,
}

impl Longest {
    /// The answer to a text that certainly has more tokens.
    pub(crate) fn exceeded_by(&self, text: &str) -> ApiError {
        let (bytes, tokens) = (text.len(), self.tokens);
        let message = format!(
            "the prompt has {bytes} bytes, which are more than {tokens} tokens; this server allows {tokens} (`--max-input-tokens`)"
        );
        ApiError::too_long(self.name, message)
    }
}

impl Wish {
    /// What can be refused before the prompt is tokenized.
    ///
    /// # Errors
    /// Names the parameter and the limit.
    pub(crate) fn check(&self, model: &Model) -> Result<(), ApiError> {
        let limits = &model.limits;
        if self.pooling.is_some() && !model.description.can_pool {
            let reason = if model.description.prompt_runs.is_whole() {
                "reads prompts with an encoder of its own"
            } else {
                "runs by transformers' own code"
            };
            let message = format!(
                "`{}` {reason}, which gives no states to pool",
                model.description.architecture
            );
            return Err(ApiError::invalid("model", message));
        }
        let max_input = limits.max_input_tokens;
        if let Some(truncate) = self
            .truncate
            .filter(|&t| t == 0 || t > u64::from(max_input))
        {
            let message = format!(
                "`truncate` is {truncate}; it must be from 1 to {max_input} (`--max-input-tokens`)"
            );
            return Err(ApiError::invalid("truncate", message));
        }
        self.check_prompt_scores(model)?;
        self.check_beams(model)?;
        let mut biased = self.sampling.logit_bias.iter().map(|(id, _)| *id);
        biased.try_for_each(|id| check_token_id("logit_bias", id, limits))?;
        self.stop_token_ids
            .iter()
            .try_for_each(|&id| check_token_id("stop_token_ids", id, limits))
    }

    /// The field `name` asks for the scores of the prompt's tokens, and of so many likely ones beside each; or for none.
    pub(crate) fn score_prompt(&mut self, name: &'static str, top_tokens: Option<u32>) {
        if top_tokens.is_some() {
            self.sampling.prompt_top_tokens = self.sampling.prompt_top_tokens.max(top_tokens);
            self.scored_by.get_or_insert(name);
        }
    }

    /// An encoder reads a prompt and gives none of its tokens a probability.
    fn check_prompt_scores(&self, model: &Model) -> Result<(), ApiError> {
        let Some(name) = self.scored_by else {
            return Ok(());
        };
        if model.description.can_score_prompts {
            return Ok(());
        }
        let message = format!(
            "`{name}` is set and asks for the scores of the prompt, which `{}` does not give; leave it out",
            model.description.architecture
        );
        Err(ApiError::invalid(name, message))
    }

    /// Every beam goes on from what was computed of the prompt, which an encoder-decoder shares with nobody.
    fn check_beams(&self, model: &Model) -> Result<(), ApiError> {
        if self.beams.is_none() || !model.description.prompt_runs.is_whole() {
            return Ok(());
        }
        Err(ApiError::invalid(
            "use_beam_search",
            "`use_beam_search` is true; this model is an encoder-decoder, whose prompts are not shared between beams: leave it out",
        ))
    }

    /// What a text may have at most; absent where it is cut.
    pub(crate) fn longest_text(&self, limits: &Limits) -> Option<Longest> {
        let longest = Longest {
            tokens: limits.max_input_tokens,
            name: self.dialect.names().0,
        };
        self.truncate.is_none().then_some(longest)
    }

    /// The last `truncate` tokens.
    pub(crate) fn truncated(&self, mut prompt: Vec<u32>) -> Vec<u32> {
        if let Some(truncate) = self.truncate {
            let surplus = prompt
                .len()
                .saturating_sub(usize::try_from(truncate).unwrap_or(usize::MAX));
            prompt.drain(..surplus);
        }
        prompt
    }

    /// The sequences of one tokenized prompt, without what the caller's headers say.
    ///
    /// # Errors
    /// The prompt, or prompt plus generation, does not fit the model's limits.
    pub(crate) fn sequences(
        &self,
        prompt: Vec<u32>,
        prompt_index: u32,
        model: &Model,
    ) -> Result<Vec<SequenceRequest>, ApiError> {
        let request = self.sequence(prompt, model)?;
        let samplings = self.choices.samplings(&request.sampling, prompt_index);
        let with = |sampling| SequenceRequest {
            sampling: Arc::new(sampling),
            ..request.clone()
        };
        Ok(samplings.map(with).collect())
    }

    fn sequence(&self, prompt: Vec<u32>, model: &Model) -> Result<SequenceRequest, ApiError> {
        let max_new_tokens = self.fitting(self.checked_length(&prompt)?, &model.limits)?;
        if self.min_tokens > max_new_tokens {
            let message = format!(
                "`min_tokens` is {}; the request may generate {max_new_tokens}",
                self.min_tokens
            );
            return Err(ApiError::invalid("min_tokens", message));
        }
        Ok(SequenceRequest {
            prompt: prompt.into(),
            max_new_tokens,
            pooling: self.pooling,
            sampling: Arc::new(self.sampling(model)),
            stop_token_ids: self.stop_tokens(model),
            min_tokens: self.min_tokens,
            traceparent: None,
            cache_salt: self.cache_salt.clone(),
            tenant: None,
            priority: self.priority,
            deadline: None,
        })
    }

    /// Tokens that may be generated after so many of the prompt.
    fn fitting(&self, input: u32, limits: &Limits) -> Result<u32, ApiError> {
        let (max_input, max_total) = (limits.max_input_tokens, limits.max_total_tokens);
        let (prompt_name, length_name) = self.dialect.names();
        let room = max_total.saturating_sub(input);
        let asked = self.max_new_tokens.unwrap_or(u64::from(room.max(1)));
        if input > max_input {
            let message = format!(
                "the prompt has {input} tokens; this server allows {max_input} (`--max-input-tokens`)"
            );
            return Err(ApiError::too_long(prompt_name, message));
        }
        if asked > u64::from(room) {
            let message = format!(
                "prompt and `{length_name}` need {input} + {asked} tokens; this server allows {max_total} together (`--max-total-tokens`)"
            );
            return Err(ApiError::too_long(length_name, message));
        }
        Ok(asked as u32)
    }

    fn checked_length(&self, prompt: &[u32]) -> Result<u32, ApiError> {
        let (name, _) = self.dialect.names();
        match u32::try_from(prompt.len()) {
            Ok(0) => Err(ApiError::invalid(name, "the prompt has no tokens")),
            Ok(length) => Ok(length),
            Err(_) => Err(ApiError::too_long(
                name,
                "the prompt has more than 4 billion tokens".to_owned(),
            )),
        }
    }

    fn sampling(&self, model: &Model) -> Sampling {
        let mut sampling = self.sampling.clone();
        if self.is_endless() {
            let ends = model.description.eos_token_ids.iter();
            sampling
                .logit_bias
                .extend(ends.map(|&id| (id, LAST_RESORT)));
        }
        sampling
    }

    fn stop_tokens(&self, model: &Model) -> Arc<[u32]> {
        let eos: &[u32] = if self.ignore_eos && !self.is_endless() {
            &[]
        } else {
            &model.description.eos_token_ids
        };
        let mut ids = [eos, &self.stop_token_ids].concat();
        ids.sort_unstable();
        ids.dedup();
        ids.into()
    }

    /// The model's end counts only where the grammar allows nothing else.
    fn is_endless(&self) -> bool {
        self.ignore_eos && self.grammar.is_some()
    }
}

/// Refuses an id that the model has no score for.
pub(crate) fn check_token_id(name: &'static str, id: u32, limits: &Limits) -> Result<(), ApiError> {
    if id < limits.vocab_size {
        return Ok(());
    }
    Err(ApiError::invalid(
        name,
        format!(
            "`{name}` has token id {id}; the model's largest is {}",
            limits.vocab_size.saturating_sub(1)
        ),
    ))
}
