//! Compiled grammars by digest: each is compiled once, in a thread that does nothing else, and the least used ones go first
//! when there are too many. Knows no slots.

use std::collections::HashMap;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

use ribbon_grammar::{Compiled, Compiler, Grammar, GrammarError, Purpose, Vocabulary, bounded};

use crate::grammar::Settings;

/// Grammars kept, used or not.
pub(super) const MAX_GRAMMARS: usize = 64;
/// Memory that the kept ones may have together, as far as it can be told.
const MAX_BYTES: usize = 256 << 20;

/// A grammar that is compiled, or will be.
pub(super) struct Compiling {
    grammar: Grammar,
    result: OnceLock<Result<Arc<Compiled>, GrammarError>>,
}

impl Compiling {
    /// Waits until it is compiled, at most as long as compiling may take.
    pub(super) fn wait(&self) -> &Result<Arc<Compiled>, GrammarError> {
        self.result.wait()
    }

    fn bytes(&self) -> usize {
        match self.result.get() {
            Some(Ok(compiled)) => compiled.bytes(),
            _ => self.grammar.source.len(),
        }
    }
}

/// The kept grammars.
#[derive(Default)]
struct Shelf {
    /// With the count of the last use.
    grammars: HashMap<[u8; 32], (u64, Arc<Compiling>)>,
    uses: u64,
}

/// All grammars of the shard.
pub(super) struct Library {
    shelf: Mutex<Shelf>,
    asked: Mutex<Sender<Arc<Compiling>>>,
}

impl Library {
    /// Starts the thread, which reads the tokenizer first.
    ///
    /// # Errors
    /// It does not start.
    pub(super) fn start(settings: Settings) -> io::Result<Self> {
        let (asked, asks) = channel();
        thread::Builder::new()
            .name("ribbon-grammars".to_owned())
            .spawn(move || compile_all(&settings, &asks))?;
        Ok(Self {
            shelf: Mutex::default(),
            asked: Mutex::new(asked),
        })
    }

    /// The grammar, compiled or on the way.
    pub(super) fn get(&self, grammar: Grammar) -> Arc<Compiling> {
        let mut shelf = self.shelf.lock().unwrap_or_else(PoisonError::into_inner);
        shelf.uses += 1;
        let uses = shelf.uses;
        if let Some((last, compiling)) = shelf.grammars.get_mut(&grammar.digest) {
            *last = uses;
            return Arc::clone(compiling);
        }
        let digest = grammar.digest;
        let compiling = Arc::new(Compiling {
            grammar,
            result: OnceLock::new(),
        });
        shelf.make_room();
        shelf
            .grammars
            .insert(digest, (uses, Arc::clone(&compiling)));
        self.ask(&compiling);
        compiling
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.shelf.lock().unwrap().grammars.len()
    }

    fn ask(&self, compiling: &Arc<Compiling>) {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.send(Arc::clone(compiling)).is_err() {
            let gone = GrammarError::Invalid("the thread that compiles is gone".to_owned());
            // The first result stays.
            compiling.result.set(Err(gone)).ok();
        }
    }
}

impl Shelf {
    /// Sequences that use what goes keep it until they end.
    fn make_room(&mut self) {
        while self.is_full() {
            let oldest = self.grammars.iter().min_by_key(|(_, (last, _))| *last);
            let Some((digest, _)) = oldest.map(|(digest, last)| (*digest, last.0)) else {
                return;
            };
            self.grammars.remove(&digest);
        }
    }

    fn is_full(&self) -> bool {
        let bytes = || {
            self.grammars
                .values()
                .map(|(_, it)| it.bytes())
                .sum::<usize>()
        };
        self.grammars.len() >= MAX_GRAMMARS || (self.grammars.len() > 1 && bytes() > MAX_BYTES)
    }
}

fn compile_all(settings: &Settings, asks: &Receiver<Arc<Compiling>>) {
    let compiler = compiler(settings).map(Arc::new);
    for ask in asks {
        let (compiler, grammar) = (compiler.clone(), ask.grammar.clone());
        let result = compiler.and_then(|compiler| bounded(move || compiler.compile(&grammar)));
        // Nobody else sets it.
        ask.result.set(result).ok();
    }
}

fn compiler(settings: &Settings) -> Result<Compiler, GrammarError> {
    let json = std::fs::read(&settings.tokenizer_json).map_err(|error| {
        GrammarError::Vocabulary(format!("{}: {error}", settings.tokenizer_json.display()))
    })?;
    let vocabulary =
        Vocabulary::from_tokenizer_json(&json, settings.vocab_size, &settings.end_tokens)?;
    Compiler::new(&vocabulary, Purpose::Masks)
}
