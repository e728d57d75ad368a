//! How much text, time, stack and memory a grammar may take. Knows limits; not grammars.

use std::{sync::mpsc, thread, time::Duration};

use llguidance::api::ParserLimits;

use crate::GrammarError;

/// Longest text of a grammar.
pub const MAX_SOURCE_BYTES: usize = 256 << 10;
/// Longest time a caller waits for a grammar. The fuel below runs out long before on an idle machine.
pub const MAX_COMPILE_TIME: Duration = Duration::from_secs(5);
/// Compilers recurse over what clients nest; touched only as far as they do.
const STACK_BYTES: usize = 256 << 20;

/// A lexer that was shared has grown enough: the next sequence starts with a fresh one.
pub(crate) const MAX_SHARED_LEXER_BYTES: usize = 32 << 20;

/// llguidance's own meters. One unit of initial fuel is about 20 ns, of step fuel 70 ns; a lexer state takes 1 to 2 kB.
pub(crate) fn parser_limits() -> ParserLimits {
    ParserLimits {
        max_items_in_row: 2_000,
        initial_lexer_fuel: 1_000_000,
        step_lexer_fuel: 200_000,
        step_max_items: 50_000,
        max_lexer_states: 20_000,
        max_grammar_size: 200_000,
        precompute_large_lexemes: true,
        verbose_errors: false,
    }
}

/// Runs `work` on a thread with room to recurse, and waits for it at most [`MAX_COMPILE_TIME`]. What takes longer ends by its
/// own bounds, unheard.
///
/// # Errors
/// [`GrammarError::TooSlow`], or what `work` says; a panic is [`GrammarError::Invalid`].
pub fn bounded<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, GrammarError> + Send + 'static,
) -> Result<T, GrammarError> {
    let (done, result) = mpsc::sync_channel(1);
    let run = move || {
        // Nobody listens where the time is over.
        done.send(work()).ok();
    };
    thread::Builder::new()
        .name("grammar".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(run)
        .map_err(|error| GrammarError::Invalid(format!("no thread to compile it: {error}")))?;
    match result.recv_timeout(MAX_COMPILE_TIME) {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Timeout) => Err(GrammarError::TooSlow(MAX_COMPILE_TIME)),
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            Err(GrammarError::Invalid("its compiler failed".to_owned()))
        }
    }
}
