//! The beams of one search and the sequences they ended as. Knows tokens and log probabilities; asks nobody for them.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use ribbon_core::FinishReason;

use super::{Beams, EarlyStopping};
use crate::writing::Writing;

/// The likeliest tokens behind a beam, likeliest first.
pub(super) type Listed = Arc<[(u32, f32)]>;

/// One token of a beam.
#[derive(Clone, Debug)]
pub(super) struct Picked {
    pub(super) id: u32,
    pub(super) logprob: f32,
    /// What it was picked among.
    pub(super) listed: Listed,
}

/// A sequence that goes on.
#[derive(Clone)]
pub(super) struct Beam {
    pub(super) tokens: Vec<Picked>,
    logprobs: f64,
    /// Its text, where stop strings are looked for.
    writing: Option<Writing>,
}

/// A sequence that ended.
pub(super) struct Ended {
    pub(super) tokens: Vec<Picked>,
    pub(super) end: End,
    score: f64,
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    StopToken,
    StopString,
    Length,
}

impl End {
    /// What an engine would say. Nothing of stop strings: those are found where the text is written.
    pub(super) fn finish(self) -> Option<FinishReason> {
        match self {
            Self::StopToken => Some(FinishReason::EosToken),
            Self::StopString => None,
            Self::Length => Some(FinishReason::Length),
        }
    }
}

/// What ends a sequence, stop strings apart.
#[derive(Clone, Debug)]
pub(super) struct Bounds {
    pub(super) stop_token_ids: Arc<[u32]>,
    /// At least 1.
    pub(super) max_tokens: u32,
}

/// A token that a beam may go on with.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    beam: usize,
    place: usize,
    logprobs: f64,
}

/// Where the search stands.
pub(super) struct Frontier {
    rules: Beams,
    bounds: Bounds,
    /// At most `width`, likeliest first.
    live: Vec<Beam>,
    /// At most `width`, best first.
    ended: Vec<Ended>,
}

impl Frontier {
    /// One beam without a token.
    pub(super) fn new(rules: Beams, bounds: Bounds, writing: Option<Writing>) -> Self {
        let beam = Beam {
            tokens: Vec::new(),
            logprobs: 0.0,
            writing,
        };
        Self {
            rules,
            bounds,
            live: vec![beam],
            ended: Vec::new(),
        }
    }

    /// The beams whose next tokens are wanted, likeliest first.
    pub(super) fn live(&self) -> &[Beam] {
        &self.live
    }

    /// The sequences found, best first.
    pub(super) fn into_ended(self) -> Vec<Ended> {
        self.ended
    }

    /// Every beam gets a token: `listed` has the likeliest of each. The best that go on are the next beams; what ends counts
    /// only among the first `width`, unless nothing goes on.
    pub(super) fn advance(&mut self, listed: &[Listed]) {
        let mut late = self.follow(listed);
        if self.live.is_empty() {
            self.ended.append(&mut late);
        }
        // Stable: among equals the one that was found first.
        self.ended.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.ended.truncate(self.rules.width as usize);
    }

    /// Gives what ended behind the first `width` candidates, at most `width`: all are of one length, so the likeliest are best.
    fn follow(&mut self, listed: &[Listed]) -> Vec<Ended> {
        let width = self.rules.width as usize;
        let beams = std::mem::take(&mut self.live);
        let longest = beams.first().map_or(0, |beam| beam.tokens.len() + 1);
        let may_go_on = longest < self.bounds.max_tokens as usize;
        let mut late = Vec::new();
        for (rank, candidate) in ranked(&beams, listed).into_iter().enumerate() {
            if rank >= width && (self.live.len() == width || !may_go_on) {
                break;
            }
            let Some(beam) = followed(&beams, listed, candidate) else {
                continue;
            };
            match self.judged(beam) {
                Ok(beam) if self.live.len() < width => self.live.push(beam),
                Err(ended) if rank < width => self.ended.push(ended),
                Err(ended) if late.len() < width => late.push(ended),
                Ok(_) | Err(_) => {}
            }
        }
        late
    }

    /// The beam if it goes on, with the text of its last token.
    fn judged(&self, mut beam: Beam) -> Result<Beam, Ended> {
        let number = beam.tokens.len() as u32;
        let last = beam.tokens.last().map_or(0, |token| token.id);
        let writing = beam.writing.as_mut();
        let end = if self.bounds.stop_token_ids.contains(&last) {
            End::StopToken
        } else if writing.is_some_and(|writing| writing.write(last, number, false)) {
            End::StopString
        } else if number >= self.bounds.max_tokens {
            End::Length
        } else {
            return Ok(beam);
        };
        Err(Ended {
            score: self.rules.score(beam.logprobs, beam.tokens.len()),
            tokens: beam.tokens,
            end,
        })
    }

    /// No beam goes on, or none can be expected to become better than what was found.
    pub(super) fn is_over(&self) -> bool {
        let Some(best) = self.live.first() else {
            return true;
        };
        let worst = self.ended.get(self.rules.width as usize - 1);
        worst.is_some_and(|worst| self.expected(best) <= worst.score)
    }

    /// What may become of a beam, as far as the rule for early stopping looks.
    fn expected(&self, beam: &Beam) -> f64 {
        let favours_length = self.rules.length_penalty > 0.0;
        match self.rules.early_stopping {
            EarlyStopping::Full => f64::NEG_INFINITY,
            EarlyStopping::Never if favours_length => self
                .rules
                .score(beam.logprobs, self.bounds.max_tokens as usize),
            EarlyStopping::Never | EarlyStopping::Estimate => {
                self.rules.score(beam.logprobs, beam.tokens.len())
            }
        }
    }
}

/// All candidates, the likeliest sequence first.
fn ranked(beams: &[Beam], listed: &[Listed]) -> Vec<Candidate> {
    let of_beam = |(beam, (before, listed)): (usize, (&Beam, &Listed))| {
        let before = before.logprobs;
        let candidate = move |(place, (_, logprob)): (usize, &(u32, f32))| Candidate {
            beam,
            place,
            logprobs: before + f64::from(*logprob),
        };
        listed.iter().enumerate().map(candidate).collect::<Vec<_>>()
    };
    let pairs = beams.iter().zip(listed).enumerate();
    let mut candidates: Vec<Candidate> = pairs.flat_map(of_beam).collect();
    candidates.sort_by(|a, b| b.logprobs.total_cmp(&a.logprobs));
    candidates
}

/// The beam with the candidate's token.
fn followed(beams: &[Beam], listed: &[Listed], candidate: Candidate) -> Option<Beam> {
    let listed = listed.get(candidate.beam)?;
    let (id, logprob) = *listed.get(candidate.place)?;
    let mut beam = beams.get(candidate.beam)?.clone();
    beam.tokens.push(Picked {
        id,
        logprob,
        listed: listed.clone(),
    });
    beam.logprobs = candidate.logprobs;
    Some(beam)
}
