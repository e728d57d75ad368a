//! Tokens with the text that each has in an answer. One that ends inside a character waits for what becomes of it: where
//! the end token cuts it off, it shows with the token that began it. Knows no answer format.

use std::vec::Drain;

use ribbon_core::Token;

use crate::running::{Running, Step};

/// A token and its text: what it completed, or a special token's own.
pub(crate) struct TokenText {
    pub(crate) token: Token,
    pub(crate) text: String,
    pub(crate) is_special: bool,
    /// Of the generated tokens, counted from 1.
    pub(crate) number: u32,
    /// Characters of what was generated before its text.
    pub(crate) place: usize,
}

/// Tokens whose text is not known yet.
#[derive(Default)]
pub(crate) struct TokenTexts {
    waiting: Vec<TokenText>,
}

impl TokenTexts {
    /// Takes the last step's token; gives those whose text is known now, in their order.
    pub(crate) fn known(&mut self, running: &Running, step: &Step) -> Drain<'_, TokenText> {
        if let Some(token) = &step.token {
            self.push(running, token.clone(), step.is_special);
        }
        let is_known = step.finish.is_some() || !running.is_amid_character();
        let number = if is_known { self.waiting.len() } else { 0 };
        self.waiting.drain(..number)
    }

    /// Gives the others: no more tokens come.
    pub(crate) fn rest(&mut self) -> Drain<'_, TokenText> {
        self.waiting.drain(..)
    }

    fn push(&mut self, running: &Running, token: Token, is_special: bool) {
        let piece = running.piece();
        let text = if is_special {
            let mut before = self.waiting.iter_mut().rev();
            if let Some(begun) = before.find(|before| !before.is_special) {
                begun.text.push_str(piece);
            }
            running.tokenizer.text_of(token.id)
        } else {
            piece.to_owned()
        };
        self.waiting.push(TokenText {
            token,
            text,
            is_special,
            number: running.generated_tokens,
            place: running.place(),
        });
    }
}
