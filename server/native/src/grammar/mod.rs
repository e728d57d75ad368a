//! Constrained rows: which tokens each sequence's grammar allows next. Masks are made by a thread of their own while the
//! forward pass runs. Knows slots, tokens and grammars; not scores' meaning, not text.

mod crew;
mod library;
mod row;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ribbon_grammar::Grammar;

use crate::error::{NativeError, invalid};
use crate::tensor::Pieces;
use crate::threads;
use crew::{Crew, Job};
use library::Library;
use row::{Delay, Row};

/// Bits in a word of a mask.
pub const WORD_BITS: usize = 32;

/// The model's tokens, and how many sequences there may be.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The model's `tokenizer.json`.
    pub tokenizer_json: PathBuf,
    /// Scores a row has.
    pub vocab_size: usize,
    /// Tokens that end a text.
    pub end_tokens: Vec<u32>,
    /// Slots, the reserved one included.
    pub num_slots: usize,
}

/// What the sequences' histories look like in one step.
#[derive(Clone, Copy, Debug)]
pub struct Histories<'a> {
    /// Token ids of all slots.
    pub tokens: &'a [i32],
    /// Ids that a slot has room for.
    pub width: usize,
}

/// Rows by slot.
type Table = Vec<Mutex<Option<Row>>>;

/// The grammars of all slots.
pub struct Grammars {
    vocab_size: usize,
    end_tokens: Arc<[u32]>,
    library: Library,
    rows: Arc<Table>,
    crew: Crew,
}

impl Grammars {
    /// Starts the threads that compile and that fill masks. The tokenizer is read in the background; one that cannot be
    /// used shows as the fault of every row with a grammar.
    ///
    /// # Errors
    /// A thread does not start.
    pub fn new(settings: Settings) -> Result<Self, NativeError> {
        let failed = |error| NativeError::Invalid(format!("no thread for grammars: {error}"));
        let rows: Arc<Table> =
            Arc::new((0..settings.num_slots).map(|_| Mutex::default()).collect());
        Ok(Self {
            vocab_size: settings.vocab_size,
            end_tokens: settings.end_tokens.as_slice().into(),
            crew: Crew::start(Arc::clone(&rows)).map_err(failed)?,
            library: Library::start(settings).map_err(failed)?,
            rows,
        })
    }

    /// Has a grammar compiled that a sequence will soon bring.
    pub fn expect(&self, grammar: Grammar) {
        self.library.get(grammar);
    }

    /// The sequence that takes `slot` follows `grammar`; `stops` are the tokens that end it.
    ///
    /// # Errors
    /// There is no such slot.
    pub fn open(&self, slot: usize, grammar: Grammar, stops: Vec<u32>) -> Result<(), NativeError> {
        let delay = grammar.start_after.map(|token| Delay {
            token,
            opened_by: grammar.opened_by,
            end_tokens: Arc::clone(&self.end_tokens),
        });
        let compiling = self.library.get(grammar);
        *self.row(slot)? = Some(Row::new(compiling, delay, stops, self.mask_words()));
        Ok(())
    }

    /// The slots have no grammar any more.
    ///
    /// # Errors
    /// There is no such slot.
    pub fn close(&self, slots: &[u32]) -> Result<(), NativeError> {
        slots
            .iter()
            .try_for_each(|slot| self.row(*slot as usize).map(|mut row| *row = None))
    }

    /// Starts on the masks of `slots`, each of which has `known` tokens of which `prompt` are the prompt's. Tokens that a row
    /// has not seen yet are taken first. Waits for masks begun earlier; [`Self::finish`] waits for these.
    ///
    /// # Errors
    /// A slot or a count that cannot be; nothing is begun then.
    pub fn begin(
        &self,
        slots: &[u32],
        prompt: &[i64],
        known: &[i64],
        histories: Histories<'_>,
    ) -> Result<(), NativeError> {
        self.crew.wait();
        let mut jobs = Vec::with_capacity(slots.len());
        for ((slot, prompt), known) in slots.iter().zip(prompt).zip(known) {
            let slot = *slot as usize;
            let seen = match self.row(slot)?.as_ref() {
                Some(row) => row.seen(),
                None => continue,
            };
            let tokens = histories.part(slot, *prompt as usize + seen, *known as usize)?;
            jobs.push(Job { slot, tokens });
        }
        self.crew.begin(jobs);
        Ok(())
    }

    /// Waits until the masks that were begun are there.
    pub fn finish(&self) {
        self.crew.wait();
    }

    /// Tokens that a row's grammar does not allow get -inf. logits [slots, vocab].
    ///
    /// # Errors
    /// The logits do not have that shape, or a slot has no mask.
    pub fn apply(&self, slots: &[u32], logits: &mut [f32]) -> Result<(), NativeError> {
        check_len("logits", logits.len(), slots.len() * self.vocab_size)?;
        self.check_open(slots)?;
        let rows = Pieces::new(logits);
        threads::for_each(slots.len(), |row| {
            // SAFETY: each row is changed by one call only.
            let scores = unsafe { rows.piece(row * self.vocab_size, self.vocab_size) };
            if let Some(row) = lock(&self.rows[slots[row] as usize]).as_ref() {
                cut(scores, row.mask());
            }
        });
        Ok(())
    }

    /// Copies the slots' masks: words [slots, mask_words].
    ///
    /// # Errors
    /// The output does not have that shape, or a slot has no mask.
    pub fn masks(&self, slots: &[u32], output: &mut [u32]) -> Result<(), NativeError> {
        let words = self.mask_words();
        check_len("output", output.len(), slots.len() * words)?;
        self.check_open(slots)?;
        for (slot, output) in slots.iter().zip(output.chunks_mut(words)) {
            if let Some(row) = lock(&self.rows[*slot as usize]).as_ref() {
                output.copy_from_slice(row.mask());
            }
        }
        Ok(())
    }

    /// Whether the grammar leaves nothing but tokens that end the sequence; false for a slot without one.
    ///
    /// # Errors
    /// There is no such slot.
    pub fn only_stops(&self, slot: usize) -> Result<bool, NativeError> {
        Ok(self.row(slot)?.as_ref().is_some_and(Row::only_stops))
    }

    /// Why the slot has no mask.
    ///
    /// # Errors
    /// There is no such slot.
    pub fn fault(&self, slot: usize) -> Result<Option<String>, NativeError> {
        Ok(self.row(slot)?.as_ref().and_then(Row::fault))
    }

    /// How long the slot's last mask took, its tokens and the wait for its grammar included.
    ///
    /// # Errors
    /// There is no such slot.
    pub fn fill_time(&self, slot: usize) -> Result<Duration, NativeError> {
        Ok(self
            .row(slot)?
            .as_ref()
            .map_or(Duration::ZERO, Row::fill_time))
    }

    /// 32-bit words of a mask.
    pub fn mask_words(&self) -> usize {
        self.vocab_size.div_ceil(WORD_BITS)
    }

    fn row(&self, slot: usize) -> Result<MutexGuard<'_, Option<Row>>, NativeError> {
        match self.rows.get(slot) {
            Some(row) => Ok(lock(row)),
            None => invalid(format!(
                "slot is {slot}; there are {} with grammars",
                self.rows.len()
            )),
        }
    }

    fn check_open(&self, slots: &[u32]) -> Result<(), NativeError> {
        slots
            .iter()
            .try_for_each(|slot| match self.row(*slot as usize)?.is_some() {
                true => Ok(()),
                false => invalid(format!("slot {slot} has no grammar")),
            })
    }
}

impl Histories<'_> {
    fn part(&self, slot: usize, begin: usize, end: usize) -> Result<Vec<u32>, NativeError> {
        let history = self.tokens.chunks(self.width).nth(slot);
        match history.and_then(|history| history.get(begin..end)) {
            Some(tokens) => Ok(tokens.iter().map(|token| *token as u32).collect()),
            None => invalid(format!(
                "slot {slot} has no tokens {begin} to {end} in its history"
            )),
        }
    }
}

fn check_len(name: &str, len: usize, expected: usize) -> Result<(), NativeError> {
    if len == expected {
        return Ok(());
    }
    invalid(format!("{name} has {len} elements, expected {expected}"))
}

/// A row that panicked is as good as before: its next mask says what is wrong.
fn lock(row: &Mutex<Option<Row>>) -> MutexGuard<'_, Option<Row>> {
    row.lock().unwrap_or_else(PoisonError::into_inner)
}

fn cut(scores: &mut [f32], mask: &[u32]) {
    for (scores, word) in scores.chunks_mut(WORD_BITS).zip(mask) {
        match *word {
            u32::MAX => {}
            0 => scores.fill(f32::NEG_INFINITY),
            word => {
                for (bit, score) in scores.iter_mut().enumerate() {
                    if word >> bit & 1 == 0 {
                        *score = f32::NEG_INFINITY;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
