//! A connection that is read a little ahead, so that a client that leaves is noticed whatever it sent before. Knows no HTTP.
//!
//! hyper looks for the end of a busy HTTP/1 connection only while it holds no bytes of the next request. A client that sends
//! something behind its body, be it a line break, would otherwise be generated for until the last token.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// Bytes read ahead at most; behind so many a client's end is not looked for.
const MAX_AHEAD: usize = 64 << 10;
/// Bytes of one read.
const CHUNK: usize = 4 << 10;

/// A connection that two hold: who serves it, and who watches for its end.
#[derive(Debug, Clone)]
pub(crate) struct ReadAhead(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    stream: TcpStream,
    /// Read, and not yet taken.
    ahead: Vec<u8>,
    /// The client will send no more.
    ended: bool,
    /// The reader waits for bytes, and so hears of the end itself.
    reader_waits: bool,
}

impl ReadAhead {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            stream,
            ahead: Vec::new(),
            ended: false,
            reader_waits: false,
        })))
    }

    /// Ready when the client has left while nobody reads. Poll it after the reader, on the same task.
    pub(crate) fn poll_left(&self, context: &mut Context<'_>) -> Poll<()> {
        self.lock().poll_left(context)
    }

    /// One task holds all clones, so nobody ever waits here.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn poll_left(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while !self.reader_waits && !self.ended && self.ahead.len() < MAX_AHEAD {
            match self.poll_chunk(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) => {}
                // The reader and the writer meet the error themselves; whoever waits for neither has nobody to serve.
                Poll::Ready(Err(_)) => return Poll::Ready(()),
            }
        }
        if self.ended && !self.reader_waits {
            return Poll::Ready(());
        }
        Poll::Pending
    }

    fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut chunk = [0; CHUNK];
        let mut buffer = ReadBuf::new(&mut chunk);
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer))?;
        self.ended = buffer.filled().is_empty();
        self.ahead.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(()))
    }

    fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.reader_waits = false;
        if !self.ahead.is_empty() {
            let count = self.ahead.len().min(buffer.remaining());
            buffer.put_slice(&self.ahead.drain(..count).collect::<Vec<u8>>());
            return Poll::Ready(Ok(()));
        }
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.reader_waits = read.is_pending();
        read
    }
}

impl AsyncRead for ReadAhead {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.lock().poll_read(context, buffer)
    }
}

impl AsyncWrite for ReadAhead {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.lock().stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.lock().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.lock().stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.lock().stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.lock().stream.is_write_vectored()
    }
}
