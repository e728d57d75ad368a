//! Whether a grammar can be enforced with the model's tokens: compiled once, within bounds, before its request queues.

use std::{
    collections::{HashMap, VecDeque},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use ribbon_grammar::{
    Compiler, Grammar, GrammarError, MAX_COMPILE_TIME, Purpose, Vocabulary, Written, bounded,
};

/// Verdicts that are remembered.
const MAX_VERDICTS: usize = 1024;
/// Compilations at once: those that callers wait for, and those that they waited for too long.
const MAX_RUNNING: usize = 8;

type Verdict = Result<(), GrammarError>;

/// Checks grammars for one model. May be shared between threads.
#[derive(Debug)]
pub struct GrammarCheck {
    tokenizer_json: PathBuf,
    compiler: Arc<OnceLock<Result<Compiler, GrammarError>>>,
    verdicts: Mutex<Verdicts>,
    running: Arc<AtomicUsize>,
}

impl GrammarCheck {
    /// For the model in this directory, whose tokens are read with the first grammar.
    pub fn new(model_path: &Path) -> Self {
        Self {
            tokenizer_json: model_path.join("tokenizer.json"),
            compiler: Arc::default(),
            verdicts: Mutex::default(),
            running: Arc::default(),
        }
    }

    /// The grammar as the shard gets it, and whether it was checked before; if not, [`Self::check`] it. Takes milliseconds.
    ///
    /// # Errors
    /// It cannot be enforced.
    pub fn known(&self, written: Written) -> Result<(Grammar, bool), GrammarError> {
        let grammar = written.normalised()?;
        match self.lock().get(&grammar.digest) {
            Some(verdict) => verdict.map(|()| (grammar, true)),
            None => Ok((grammar, false)),
        }
    }

    /// Compiles the grammar, and remembers whether it can be enforced. Blocks for a few milliseconds, at worst for
    /// [`ribbon_grammar::MAX_COMPILE_TIME`].
    ///
    /// # Errors
    /// It cannot be.
    pub fn check(&self, grammar: &Grammar) -> Result<(), GrammarError> {
        // Whoever came at the same time may have found it out.
        if let Some(verdict) = self.lock().get(&grammar.digest) {
            return verdict;
        }
        let verdict = self.compile(grammar);
        // Time is the machine's, not the grammar's.
        if !matches!(verdict, Err(GrammarError::TooSlow(_))) {
            self.lock().put(grammar.digest, verdict.clone());
        }
        verdict
    }

    fn compile(&self, grammar: &Grammar) -> Verdict {
        let running = Running::enter(&self.running)?;
        let (compiler, grammar) = (self.compiler.clone(), grammar.clone());
        let tokenizer_json = self.tokenizer_json.clone();
        bounded(move || {
            let _running = running;
            let compiler = compiler.get_or_init(|| read(&tokenizer_json));
            compiler.as_ref().map_err(Clone::clone)?.compile(&grammar)?;
            Ok(())
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Verdicts> {
        self.verdicts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Any token may end a text here, since only a text's first token is tried: the model's own ends are the shard's business.
fn read(tokenizer_json: &Path) -> Result<Compiler, GrammarError> {
    let json = std::fs::read(tokenizer_json)
        .map_err(|error| GrammarError::Vocabulary(format!("tokenizer.json: {error}")))?;
    let vocabulary = Vocabulary::of_tokenizer(&json)?;
    Compiler::new(&vocabulary, Purpose::Check)
}

/// What was found out about grammars, by digest; the oldest are forgotten first.
#[derive(Debug, Default)]
struct Verdicts {
    by_digest: HashMap<[u8; 32], Verdict>,
    order: VecDeque<[u8; 32]>,
}

impl Verdicts {
    fn get(&self, digest: &[u8; 32]) -> Option<Verdict> {
        self.by_digest.get(digest).cloned()
    }

    fn put(&mut self, digest: [u8; 32], verdict: Verdict) {
        if self.by_digest.insert(digest, verdict).is_none() {
            self.order.push_back(digest);
        }
        if self.order.len() > MAX_VERDICTS
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_digest.remove(&oldest);
        }
    }
}

/// A compilation under way, whether somebody waits for it or not.
struct Running(Arc<AtomicUsize>);

impl Running {
    /// # Errors
    /// Too many are.
    fn enter(count: &Arc<AtomicUsize>) -> Result<Self, GrammarError> {
        let running = Self(count.clone());
        if count.fetch_add(1, Ordering::Relaxed) < MAX_RUNNING {
            return Ok(running);
        }
        Err(GrammarError::TooSlow(MAX_COMPILE_TIME))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn bundled() -> GrammarCheck {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo-model/weights");
        GrammarCheck::new(&model)
    }

    fn checked(check: &GrammarCheck, written: Written) -> Result<Grammar, GrammarError> {
        let (grammar, is_known) = check.known(written)?;
        if !is_known {
            check.check(&grammar)?;
        }
        Ok(grammar)
    }

    #[test]
    fn a_verdict_is_kept_whatever_it_is() {
        let check = bundled();
        let good = || Written::JsonSchema(json!({"type": "object"}));
        let bad = || Written::Regex("a(".to_owned());
        let grammar = checked(&check, good()).unwrap();
        let error = checked(&check, bad()).unwrap_err();
        assert_eq!(check.lock().by_digest.len(), 2);
        assert_eq!(check.known(good()).unwrap(), (grammar, true));
        assert_eq!(check.known(bad()).unwrap_err(), error);
        assert_eq!(check.lock().order.len(), 2);
        assert_eq!(check.running.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn old_verdicts_are_forgotten() {
        let mut verdicts = Verdicts::default();
        for number in 0..=MAX_VERDICTS {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&number.to_le_bytes());
            verdicts.put(digest, Ok(()));
            verdicts.put(digest, Ok(()));
        }
        assert_eq!(verdicts.by_digest.len(), MAX_VERDICTS);
        assert_eq!(verdicts.get(&[0; 32]), None);
    }

    #[test]
    fn compilations_that_nobody_waits_for_are_bounded() {
        let check = bundled();
        let held: Vec<Running> = (0..MAX_RUNNING)
            .map(|_| Running::enter(&check.running).unwrap())
            .collect();
        let busy = checked(&check, Written::JsonObject).unwrap_err();
        assert_eq!(busy, GrammarError::TooSlow(MAX_COMPILE_TIME));
        drop(held);
        checked(&check, Written::JsonObject).unwrap();
    }

    #[test]
    fn a_model_without_bytes_has_no_grammars() {
        let check = GrammarCheck::new(Path::new("/nowhere"));
        let error = checked(&check, Written::JsonObject).unwrap_err();
        assert!(matches!(error, GrammarError::Vocabulary(_)), "{error}");
    }
}
