//! Where in a text its tokens stand. Knows what they completed, not what they are.

use super::REPLACEMENT;

/// Counts the characters of a text whose tokens come one at a time.
#[derive(Clone, Debug, Default)]
pub struct Places {
    characters: usize,
}

impl Places {
    /// Characters before the text of the token that completed `piece`. `pending` is what [`super::Detokenizer::pending`] said
    /// before it: what it broke off shows first, and belongs to the tokens before.
    pub fn next(&mut self, pending: usize, piece: &str) -> usize {
        let first = piece.chars().take(pending);
        let broken = first.take_while(|&c| c == REPLACEMENT).count();
        let place = self.characters + broken;
        self.characters += piece.chars().count();
        place
    }
}
