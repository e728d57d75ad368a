//! The client's end of a sequence, and how sequences come in.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_core::Stream;
use ribbon_core::{Line, StreamError, TokenStream, Tokens};
use tokio::sync::mpsc;

use super::mailbox::{Command, Item, Mailbox, Submission};
use crate::gate::{Permit, SequenceId};

/// Tokens of one sequence as they come; cancels it when dropped before its end.
#[derive(Debug)]
pub(super) struct SequenceStream {
    id: SequenceId,
    items: mpsc::Receiver<Item>,
    mailbox: Arc<Mailbox>,
    ended: bool,
    /// The client wants no more, and did not go away.
    has_enough: bool,
}

impl SequenceStream {
    fn new(id: SequenceId, items: mpsc::Receiver<Item>, mailbox: Arc<Mailbox>) -> Self {
        Self {
            id,
            items,
            mailbox,
            ended: false,
            has_enough: false,
        }
    }
}

impl Mailbox {
    /// Sends sequences in, so that one step can begin them together; the streams they give.
    pub(super) fn submit(
        self: &Arc<Self>,
        lines: impl Iterator<Item = (Line, Permit)>,
    ) -> Vec<TokenStream> {
        let (submissions, streams) = lines.map(|(line, permit)| self.enter(line, permit)).unzip();
        self.post(Command::Submit(submissions));
        streams
    }

    /// Both ends of one sequence.
    fn enter(self: &Arc<Self>, line: Line, permit: Permit) -> (Submission, TokenStream) {
        // Every token and one error fit, so the actor never waits for a slow client.
        let (sender, items) = mpsc::channel(line.request.max_new_tokens as usize + 1);
        let stream = SequenceStream::new(permit.id(), items, self.clone());
        let submission = Submission {
            line,
            permit,
            items: sender,
        };
        (submission, Box::pin(stream))
    }
}

impl Tokens for SequenceStream {
    fn enough(mut self: Pin<&mut Self>) {
        self.has_enough = true;
    }
}

impl Stream for SequenceStream {
    type Item = Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        // The actor lets go of a sequence only after its last item, unless the actor itself is gone.
        let item = ready!(self.items.poll_recv(context)).unwrap_or(Err(StreamError::ShuttingDown));
        self.ended = item.as_ref().map_or(true, |event| event.finish.is_some());
        Poll::Ready(Some(item))
    }
}

impl Drop for SequenceStream {
    fn drop(&mut self) {
        match (self.ended, self.has_enough) {
            (true, _) => {}
            (false, true) => self.mailbox.post(Command::Finish(self.id)),
            (false, false) => self.mailbox.post(Command::Cancel(self.id)),
        }
    }
}
