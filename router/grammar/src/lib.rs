//! Grammars that generated text follows, on llguidance: written in one form, compiled within bounds, matched token by token.
//!
//! The router compiles a grammar before its request queues and refuses what cannot be enforced; the shard's native module
//! compiles it again and computes masks. Knows token bytes and grammars; not requests, models or threads of others.

mod bounds;
mod compiler;
mod error;
mod matcher;
mod schema;
mod vocabulary;
mod written;

pub use bounds::{MAX_COMPILE_TIME, MAX_SOURCE_BYTES, bounded};
pub use compiler::{Compiled, Compiler, Purpose};
pub use error::GrammarError;
pub use matcher::Matcher;
pub use ribbon_core::{Grammar, GrammarKind};
pub use vocabulary::Vocabulary;
pub use written::Written;

#[cfg(test)]
mod tests;
