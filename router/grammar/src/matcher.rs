//! One text's place in its grammar: takes tokens, says which may come next.

use std::{panic::AssertUnwindSafe, sync::Arc};

use llguidance::{TokenParser, api::StopReason, panic_utils::catch_unwind, toktrie::SimpleVob};

use crate::{Compiled, GrammarError, error::words};

/// A text's place in its grammar. The lexer behind it is shared with other texts until it fails one of them.
pub struct Matcher {
    compiled: Arc<Compiled>,
    parser: TokenParser,
    taken: Vec<u32>,
    shares: bool,
}

impl Matcher {
    pub(crate) fn new(compiled: Arc<Compiled>, parser: TokenParser) -> Self {
        Self {
            compiled,
            parser,
            taken: Vec::new(),
            shares: true,
        }
    }

    /// Tokens taken so far.
    pub fn taken(&self) -> usize {
        self.taken.len()
    }

    /// Takes the next tokens of the text.
    ///
    /// # Errors
    /// One of them may not stand here. The matcher is of no use then.
    pub fn take(&mut self, tokens: &[u32]) -> Result<(), GrammarError> {
        self.taken.extend_from_slice(tokens);
        match advance(&mut self.parser, tokens) {
            Err(_) if self.shares => self.leave(),
            taken => taken,
        }
    }

    /// The tokens that may come next, one bit each, lowest id in the lowest bit. Where the text is whole, those that end it.
    ///
    /// # Errors
    /// [`GrammarError::TooComplex`] beyond the bounds; [`GrammarError::Empty`] where no token may come.
    pub fn mask(&mut self) -> Result<SimpleVob, GrammarError> {
        match mask(&mut self.parser) {
            Err(_) if self.shares => {
                self.leave()?;
                mask(&mut self.parser)
            }
            mask => mask,
        }
    }

    /// Goes on with a lexer of its own: what other texts did to the shared one is not this text's fault.
    fn leave(&mut self) -> Result<(), GrammarError> {
        self.shares = false;
        self.parser = self.compiled.own_parser();
        advance(&mut self.parser, &self.taken)
    }
}

/// What llguidance says of a token that may not come; it has one reason for this and for what is beyond its limits.
const MISMATCH: &str = "satisfy the grammar";

fn advance(parser: &mut TokenParser, tokens: &[u32]) -> Result<(), GrammarError> {
    if tokens.is_empty() {
        return Ok(());
    }
    let advanced = catch_unwind(AssertUnwindSafe(|| {
        for &token in tokens {
            parser.consume_token(token)?;
        }
        parser.check_stop()
    }));
    match advanced {
        Ok(_) => Ok(()),
        Err(error) if error.to_string().contains(MISMATCH) => {
            Err(GrammarError::Mismatch(words(&error)))
        }
        Err(error) => Err(GrammarError::TooComplex(words(&error))),
    }
}

fn mask(parser: &mut TokenParser) -> Result<SimpleVob, GrammarError> {
    if parser.stopped() && parser.stop_reason().is_ok() {
        return Ok(parser.token_env.tok_trie().eos_token_set());
    }
    let computed = catch_unwind(AssertUnwindSafe(|| parser.compute_mask()));
    computed.map_err(|error| match parser.stop_reason() {
        StopReason::NoExtensionBias => GrammarError::Empty,
        _ => GrammarError::TooComplex(words(&error)),
    })
}
