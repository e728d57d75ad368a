//! The client's end of a sequence.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_core::Stream;
use ribbon_core::{StreamError, Tokens};
use tokio::sync::mpsc;

use super::mailbox::{Command, Item, Mailbox};
use crate::gate::SequenceId;

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
    pub(super) fn new(id: SequenceId, items: mpsc::Receiver<Item>, mailbox: Arc<Mailbox>) -> Self {
        Self {
            id,
            items,
            mailbox,
            ended: false,
            has_enough: false,
        }
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
