//! A grammar that generated text has to follow, ready for the shard. Knows no syntax: `router/grammar` writes and compiles it.

use std::sync::Arc;

/// The language a grammar is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GrammarKind {
    /// A JSON schema, in which nothing is left that could not be enforced.
    JsonSchema,
    /// A regular expression that the whole text matches.
    Regex,
    /// A context-free grammar in llguidance's form of Lark.
    Lark,
}

/// A checked grammar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grammar {
    /// Its language.
    pub kind: GrammarKind,
    /// Its text.
    pub source: Arc<str>,
    /// SHA-256 of both: equal grammars are compiled once.
    pub digest: [u8; 32],
    /// It holds for what follows the first generated token with this id (the end of reasoning, say); without it, from the
    /// first generated token on.
    pub start_after: Option<u32>,
    /// With it, `start_after` counts only where this is the first generated token (reasoning begins, say); otherwise the grammar
    /// holds from that one on.
    pub opened_by: Option<u32>,
}
