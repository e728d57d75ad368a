//! The client's end of a sequence.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_core::Stream;
use ribbon_core::StreamError;
use tokio::sync::mpsc;

use super::mailbox::{Command, Item, Mailbox};
use crate::gate::SequenceId;

/// Tokens of one sequence as they come; cancels it when dropped before its end.
#[derive(Debug)]
pub(super) struct SequenceStream {
    pub(super) id: SequenceId,
    pub(super) items: mpsc::Receiver<Item>,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) ended: bool,
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
        if !self.ended {
            self.mailbox.post(Command::Cancel(self.id));
        }
    }
}
