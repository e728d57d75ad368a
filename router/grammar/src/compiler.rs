//! From a grammar's text to a matcher's first state. Knows bounds and the vocabulary; not who asks.

use std::{
    fmt,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex},
};

use llguidance::{
    ParserFactory, TokenParser,
    api::TopLevelGrammar,
    earley::{SlicedBiasComputer, regexvec::LexerStats},
    panic_utils::catch_unwind,
    toktrie::InferenceCapabilities,
};

use crate::{
    Grammar, GrammarError, GrammarKind, Matcher, Vocabulary,
    bounds::{MAX_SHARED_LEXER_BYTES, parser_limits},
    error::words,
};

/// What a compiler is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To tell whether a grammar can be enforced.
    Check,
    /// To make many masks: costs memory for tries of common kinds of tokens.
    Masks,
}

/// Compiles grammars for one vocabulary. May be shared between threads.
pub struct Compiler {
    factory: ParserFactory,
}

impl Compiler {
    /// Costs up to half a second with 128 k tokens.
    ///
    /// # Errors
    /// The vocabulary is not usable.
    pub fn new(vocabulary: &Vocabulary, purpose: Purpose) -> Result<Self, GrammarError> {
        let slices = match purpose {
            Purpose::Check => Vec::new(),
            Purpose::Masks => SlicedBiasComputer::general_slices(),
        };
        let environment = vocabulary.environment();
        let made = ParserFactory::new(environment, InferenceCapabilities::default(), &slices);
        let mut factory = made.map_err(|error| GrammarError::Vocabulary(words(&error)))?;
        factory.quiet();
        *factory.limits_mut() = parser_limits();
        Ok(Self { factory })
    }

    /// Compiles a grammar and its first mask. Recurses as deeply as the grammar nests: see [`crate::bounded`].
    ///
    /// # Errors
    /// It is no grammar of its kind, exceeds a bound, or allows no text.
    pub fn compile(&self, grammar: &Grammar) -> Result<Arc<Compiled>, GrammarError> {
        let parsed = parsed(grammar)?;
        let compiling = catch_unwind(AssertUnwindSafe(|| self.factory.create_parser(parsed)));
        let mut parser =
            compiling.map_err(|error| GrammarError::Invalid(explained(words(&error))))?;
        parser.start_without_prompt();
        let compiled = Arc::new(Compiled {
            shared: Mutex::new(parser.deep_clone()),
            first: parser,
        });
        compiled.check_first_mask()?;
        Ok(compiled)
    }
}

impl fmt::Debug for Compiler {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Compiler").finish_non_exhaustive()
    }
}

/// The compiler's advice names a switch that nobody has here, and its faults are nobody's business.
fn explained(words: String) -> String {
    if words.contains("coerce_one_of") {
        return "the branches of a `oneOf` may overlap; use `anyOf`, or give each branch a required property with a `const` of its own"
            .to_owned();
    }
    if words.starts_with("panic: ") {
        return "its compiler failed".to_owned();
    }
    words
}

fn parsed(grammar: &Grammar) -> Result<TopLevelGrammar, GrammarError> {
    let source = grammar.source.as_ref();
    Ok(match grammar.kind {
        GrammarKind::JsonSchema => {
            let schema = serde_json::from_str(source)
                .map_err(|error| GrammarError::Invalid(error.to_string()))?;
            TopLevelGrammar::from_json_schema(schema)
        }
        GrammarKind::Regex => TopLevelGrammar::from_regex(source),
        GrammarKind::Lark => TopLevelGrammar::from_lark(source.to_owned()),
    })
}

/// A compiled grammar. What its sequences learn about their texts is kept for the next ones, up to a bound.
pub struct Compiled {
    /// As compiled; never used, so never broken.
    first: TokenParser,
    /// The first state again, with a lexer that all sequences share.
    shared: Mutex<TokenParser>,
}

impl Compiled {
    /// A matcher at the beginning of a text.
    pub fn matcher(self: &Arc<Self>) -> Matcher {
        Matcher::new(self.clone(), self.shared_parser())
    }

    fn shared_parser(&self) -> TokenParser {
        let mut shared = match self.shared.lock() {
            Ok(shared) => shared,
            Err(poisoned) => poisoned.into_inner(),
        };
        if !is_usable(&shared) {
            *shared = self.own_parser();
        }
        shared.clone()
    }

    /// Memory of its lexers, as far as it can be told.
    pub fn bytes(&self) -> usize {
        let shared = match self.shared.lock() {
            Ok(shared) => shared,
            Err(poisoned) => poisoned.into_inner(),
        };
        lexer(&self.first).map_or(0, |stats| stats.num_bytes)
            + lexer(&shared).map_or(0, |stats| stats.num_bytes)
    }

    /// A parser that shares nothing.
    pub(crate) fn own_parser(&self) -> TokenParser {
        self.first.deep_clone()
    }

    fn check_first_mask(self: &Arc<Self>) -> Result<(), GrammarError> {
        match self.matcher().mask() {
            Ok(_) => Ok(()),
            Err(GrammarError::TooComplex(reason)) => Err(GrammarError::Invalid(reason)),
            Err(error) => Err(error),
        }
    }
}

/// The lexer is neither broken nor too large.
fn is_usable(parser: &TokenParser) -> bool {
    lexer(parser).is_some_and(|stats| !stats.error && stats.num_bytes <= MAX_SHARED_LEXER_BYTES)
}

/// The state of a parser's lexer. Asking panics where a sequence left it locked.
fn lexer(parser: &TokenParser) -> Option<LexerStats> {
    catch_unwind(AssertUnwindSafe(|| Ok(parser.parser.lexer_stats()))).ok()
}
