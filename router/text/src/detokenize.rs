//! Token ids to text, one at a time. The pieces put together are the text of all ids; no piece ends inside a character.

use std::{collections::HashMap, sync::Arc};

use crate::Tokenizer;

mod places;

pub use places::Places;

/// Prompt tokens that a decoder may need to see before the first generated one (word joiners, byte runs).
const CONTEXT_TOKENS: usize = 6;
/// A character has at most four bytes; a decoder that still shows U+FFFD after so many tokens means it.
const MAX_PENDING_TOKENS: usize = 6;
const REPLACEMENT: char = '\u{FFFD}';

/// Incremental decoder of one sequence. Amortised cost per token is constant.
#[derive(Clone, Debug)]
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    state: State,
    /// Special tokens whose text is shown.
    shown: Vec<u32>,
}

#[derive(Clone, Debug)]
enum State {
    /// Byte-level tokenizers: the bytes of a character not complete yet, at most three.
    Bytes(Vec<u8>),
    /// Any other decoder: decodes a short window again and takes what is new.
    Window(Window),
}

#[derive(Clone, Debug)]
struct Window {
    /// Tokens already in the text that the next ones are decoded with, then pending ones.
    ids: Vec<u32>,
    /// How many of `ids` are in the text.
    shown: usize,
    /// Text of the shown ones by themselves.
    shown_text: String,
}

impl Detokenizer {
    /// A decoder for what follows `prompt`.
    pub fn new(tokenizer: Arc<Tokenizer>, prompt: &[u32]) -> Self {
        let state = if tokenizer.bytes_of(0).is_some() {
            State::Bytes(Vec::with_capacity(8))
        } else {
            State::Window(Window::new(&tokenizer, prompt))
        };
        Self {
            tokenizer,
            state,
            shown: Vec::new(),
        }
    }

    /// Shows the text of these special tokens too.
    pub fn showing(mut self, special: Vec<u32>) -> Self {
        self.shown = special;
        self
    }

    /// Appends the text that `id` completes to `out`; special tokens add none.
    pub fn push(&mut self, id: u32, out: &mut String) {
        if self.tokenizer.is_special(id) {
            if self.shown.contains(&id) {
                self.finish(out);
                out.push_str(&self.tokenizer.text_of(id));
            }
            return;
        }
        match &mut self.state {
            State::Bytes(pending) => push_bytes(
                pending,
                self.tokenizer.bytes_of(id).unwrap_or_default(),
                out,
            ),
            State::Window(window) => window.push(&self.tokenizer, id, out),
        }
    }

    /// How many U+FFFD would show if the text ended here: tokens so far end inside a character.
    pub fn pending(&self) -> usize {
        match &self.state {
            State::Bytes(pending) => usize::from(!pending.is_empty()),
            State::Window(window) => window.ids.len() - window.shown,
        }
    }

    /// Appends what is left: an incomplete character shows as U+FFFD.
    pub fn finish(&mut self, out: &mut String) {
        match &mut self.state {
            State::Bytes(pending) => {
                out.push_str(&String::from_utf8_lossy(&std::mem::take(pending)));
            }
            State::Window(window) => window.flush(&self.tokenizer, out),
        }
    }
}

/// UTF-8 decoding with `String::from_utf8_lossy`'s rule for what is no character, a piece at a time.
fn push_bytes(pending: &mut Vec<u8>, bytes: &[u8], out: &mut String) {
    if pending.is_empty()
        && let Ok(text) = std::str::from_utf8(bytes)
    {
        return out.push_str(text);
    }
    pending.extend_from_slice(bytes);
    let mut chunks = pending.utf8_chunks().peekable();
    let mut rest = 0;
    while let Some(chunk) = chunks.next() {
        out.push_str(chunk.valid());
        let is_last = chunks.peek().is_none();
        if is_last && is_incomplete(chunk.invalid()) {
            rest = chunk.invalid().len();
        } else if !chunk.invalid().is_empty() {
            out.push(REPLACEMENT);
        }
    }
    pending.drain(..pending.len() - rest);
}

fn is_incomplete(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

impl Window {
    fn new(tokenizer: &Tokenizer, prompt: &[u32]) -> Self {
        // A few more where the first ones are the end of a character: a decoder would then break the rest, too.
        let mut contexts = (CONTEXT_TOKENS..CONTEXT_TOKENS + char::MAX_LEN_UTF8)
            .map(|tokens| Self::behind(tokenizer, prompt, tokens));
        let whole = contexts.find(|window| !window.shown_text.contains(REPLACEMENT));
        whole.unwrap_or_else(|| Self::behind(tokenizer, prompt, CONTEXT_TOKENS))
    }

    /// The last so many tokens of the prompt are in the text.
    fn behind(tokenizer: &Tokenizer, prompt: &[u32], tokens: usize) -> Self {
        let context = prompt.get(prompt.len().saturating_sub(tokens)..);
        let ids: Vec<u32> = context
            .unwrap_or_default()
            .iter()
            .copied()
            .filter(|&id| !tokenizer.is_special(id))
            .collect();
        Self {
            shown: ids.len(),
            shown_text: tokenizer.decode(&ids),
            ids,
        }
    }

    fn push(&mut self, tokenizer: &Tokenizer, id: u32, out: &mut String) {
        self.ids.push(id);
        let text = tokenizer.decode(&self.ids);
        let pending = self.ids.len() - self.shown;
        if text.ends_with(REPLACEMENT) && pending < MAX_PENDING_TOKENS {
            return;
        }
        self.show(tokenizer, &text, out);
    }

    fn flush(&mut self, tokenizer: &Tokenizer, out: &mut String) {
        if self.ids.len() > self.shown {
            let text = tokenizer.decode(&self.ids);
            self.show(tokenizer, &text, out);
        }
    }

    /// Shows what `text` has beyond the shown part; the tokens just shown become the next context.
    fn show(&mut self, tokenizer: &Tokenizer, text: &str, out: &mut String) {
        let common = text.get(self.shown_text.len()..);
        out.push_str(common.unwrap_or_default());
        self.ids.drain(..self.shown);
        self.shown = self.ids.len();
        self.shown_text = tokenizer.decode(&self.ids);
    }
}

/// The bytes of every token of a byte-level vocabulary, in one block.
#[derive(Debug)]
pub(crate) struct ByteTable {
    bytes: Vec<u8>,
    /// Token `id` is `bytes[ends[id]..ends[id + 1]]`.
    ends: Vec<u32>,
}

impl ByteTable {
    pub(crate) fn new(tokenizer: &tokenizers::Tokenizer) -> Self {
        let alphabet = byte_alphabet();
        let size = tokenizer
            .get_vocab(true)
            .values()
            .max()
            .map_or(0, |&id| id + 1);
        let mut table = Self {
            bytes: Vec::new(),
            ends: vec![0],
        };
        for id in 0..size {
            let token = tokenizer.id_to_token(id).unwrap_or_default();
            table.bytes.extend(token_bytes(&alphabet, &token));
            table.ends.push(table.bytes.len() as u32);
        }
        table
    }

    /// Bytes of a token; none for an id that the tokenizer does not know.
    pub(crate) fn get(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let range = self.ends.get(id).zip(self.ends.get(id + 1));
        range
            .and_then(|(&start, &end)| self.bytes.get(start as usize..end as usize))
            .unwrap_or_default()
    }
}

/// A token outside the byte alphabet (an added one) stands for its own UTF-8.
fn token_bytes(alphabet: &HashMap<char, u8>, token: &str) -> Vec<u8> {
    let mapped: Option<Vec<u8>> = token.chars().map(|c| alphabet.get(&c).copied()).collect();
    mapped.unwrap_or_else(|| token.as_bytes().to_vec())
}

/// GPT-2's printable stand-ins: visible Latin-1 stands for itself, the others are numbered from U+0100.
fn byte_alphabet() -> HashMap<char, u8> {
    let is_visible = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut hidden = (0x100_u32..).filter_map(char::from_u32);
    let stand_in = |byte: u8| {
        if is_visible(byte) {
            Some(char::from(byte))
        } else {
            hidden.next()
        }
    };
    (0..=u8::MAX)
        .map(stand_in)
        .zip(0..=u8::MAX)
        .filter_map(|(c, byte)| Some((c?, byte)))
        .collect()
}

#[cfg(test)]
#[path = "detokenize/tests.rs"]
pub(crate) mod tests;
