//! A request whose tokens the caller picks, seen from outside: every round sends new sequences in under the one place it holds.
//! Knows no scores and no beams.

use std::sync::Arc;

use ribbon_core::{Line, Search, TokenStream};

use super::mailbox::{Command, Mailbox};
use crate::gate::Permit;

/// The search of one prompt.
#[derive(Debug)]
pub(super) struct SequenceSearch {
    /// Leave for the first sequence, whose prompt waits like any other.
    first: Option<Permit>,
    /// Holds the request's place, and gives leave for all others; gone only while dropping.
    place: Option<Permit>,
    mailbox: Arc<Mailbox>,
}

impl SequenceSearch {
    pub(super) fn begin(first: Permit, mailbox: Arc<Mailbox>) -> Self {
        mailbox.post(Command::Search(first.group()));
        Self {
            place: Some(first.further()),
            first: Some(first),
            mailbox,
        }
    }
}

impl Search for SequenceSearch {
    fn round(&mut self, lines: Vec<Line>) -> Vec<TokenStream> {
        let permitted = lines.into_iter().filter_map(|line| {
            let further = || self.place.as_ref().map(Permit::further);
            Some((line, self.first.take().or_else(further)?))
        });
        self.mailbox.submit(permitted)
    }
}

impl Drop for SequenceSearch {
    fn drop(&mut self) {
        self.first = None;
        // The actor itself gives the place back, so that it notices when nothing is left.
        if let Some(place) = self.place.take() {
            self.mailbox.post(Command::Release(place));
        }
    }
}
