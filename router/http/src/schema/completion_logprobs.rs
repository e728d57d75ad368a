//! `logprobs` of a completions choice: lists side by side, one entry a token. Knows tokens and where their text is; not events.

use ribbon_core::{Token, TokenScore};
use ribbon_text::{Detokenizer, Places, Tokenizer};
use serde::{Serialize, Serializer};

use crate::running::Running;

#[derive(Debug, Default, Serialize)]
pub(super) struct CompletionLogprobs {
    tokens: Vec<String>,
    /// None for a prompt's first token.
    token_logprobs: Vec<Option<f32>>,
    top_logprobs: Vec<Option<TopLogprobs>>,
    /// Characters of the choice's text before each token's.
    text_offset: Vec<usize>,
}

/// Texts of the likeliest tokens and of the token itself, each once, the likeliest first.
#[derive(Debug)]
struct TopLogprobs(Vec<(String, f32)>);

impl Serialize for TopLogprobs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(text, logprob)| (text, logprob)))
    }
}

impl TopLogprobs {
    /// OpenAI adds the token itself where it is not among the likeliest.
    fn new(tokenizer: &Tokenizer, top: &[(u32, f32)], own: (&str, f32)) -> Self {
        let mut texts: Vec<(String, f32)> = Vec::with_capacity(top.len() + 1);
        let listed = top
            .iter()
            .map(|(id, logprob)| (tokenizer.text_of(*id), *logprob));
        for (text, logprob) in listed.chain([(own.0.to_owned(), own.1)]) {
            // Parts of characters look alike; a JSON object has each name once.
            if texts.iter().all(|(other, _)| *other != text) {
                texts.push((text, logprob));
            }
        }
        Self(texts)
    }
}

impl CompletionLogprobs {
    /// Appends a generated token whose text begins after `offset` characters, with the `num_top` likeliest.
    pub(super) fn push(
        &mut self,
        tokenizer: &Tokenizer,
        token: &Token,
        num_top: u32,
        offset: usize,
    ) {
        let score = (token.logprob, likeliest(&token.top, num_top));
        self.append(tokenizer, token.id, Some(score), offset);
    }

    /// Appends the prompt, whose text is `text`.
    pub(super) fn push_prompt(&mut self, running: &Running, num_top: u32, text: &str) {
        let tokenizer = &running.tokenizer;
        let mut offsets = Offsets::new(running, text);
        for (id, score) in running.scored_prompt() {
            let offset = offsets.next(tokenizer, id);
            let score =
                score.map(|TokenScore { logprob, top }| (*logprob, likeliest(top, num_top)));
            self.append(tokenizer, id, score, offset);
        }
    }

    fn append(
        &mut self,
        tokenizer: &Tokenizer,
        id: u32,
        score: Option<(f32, &[(u32, f32)])>,
        offset: usize,
    ) {
        let text = tokenizer.text_of(id);
        let top = score.map(|(logprob, top)| TopLogprobs::new(tokenizer, top, (&text, logprob)));
        self.top_logprobs.push(top);
        self.token_logprobs.push(score.map(|(logprob, _)| logprob));
        self.text_offset.push(offset);
        self.tokens.push(text);
    }
}

/// OpenAI's lists have no more than asked for, also where tokens tie.
pub(super) fn likeliest(top: &[(u32, f32)], num_top: u32) -> &[(u32, f32)] {
    top.get(..num_top as usize).unwrap_or(top)
}

/// Where in a prompt's text the text of each of its tokens begins.
struct Offsets<'a> {
    detokenizer: Detokenizer,
    rest: &'a str,
    places: Places,
    piece: String,
}

impl<'a> Offsets<'a> {
    fn new(running: &Running, text: &'a str) -> Self {
        Self {
            detokenizer: Detokenizer::new(running.tokenizer.clone(), &[]),
            rest: text,
            places: Places::default(),
            piece: String::new(),
        }
    }

    /// Characters before the next token.
    fn next(&mut self, tokenizer: &Tokenizer, id: u32) -> usize {
        let pending = self.detokenizer.pending();
        self.piece.clear();
        self.detokenizer.push(id, &mut self.piece);
        if tokenizer.is_special(id) {
            let own = tokenizer.text_of(id);
            // Special tokens stand in the text only where somebody wrote them there.
            if self.rest.starts_with(&own) {
                self.piece.push_str(&own);
            }
        }
        let characters = self.piece.chars().count();
        let end = self.rest.char_indices().nth(characters);
        let (shown, rest) = end.map_or((self.rest, ""), |(end, _)| self.rest.split_at(end));
        self.rest = rest;
        self.places.next(pending, shown)
    }
}
