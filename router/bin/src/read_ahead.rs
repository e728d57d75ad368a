//! A connection that is read a little ahead, so that a client that leaves is noticed whatever it sent before. Knows no HTTP.
//!
//! hyper looks for the end of a busy HTTP/1 connection only while it holds no bytes of the next request. A client that sends
//! something behind its body, be it a line break, would otherwise be generated for until the last token.
//!
//! One that sends no more (a half-closed connection) counts as gone: until a write fails, its end looks the same.

use std::{
    future::Future,
    io, net,
    os::fd::AsFd,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};

/// Bytes read ahead at most; behind so many the system is asked whether the client's end has come. It
/// cannot have where the system holds no more of what the client sent before: then a failed write tells, or the answer's end.
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
    /// The same connection, asked for its end alone; while no more is read ahead.
    end_watch: Option<TcpStream>,
}

impl ReadAhead {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            stream,
            ahead: Vec::new(),
            ended: false,
            reader_waits: false,
            end_watch: None,
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
        if self.reader_waits {
            return Poll::Pending;
        }
        if self.ended {
            return Poll::Ready(());
        }
        self.poll_end(context)
    }

    /// Ready when the client's end has come, however much is unread before it. What the stream itself knows of its readiness
    /// stays, or bytes that came meanwhile would never be read.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let watch = match self
            .end_watch
            .take()
            .map_or_else(|| watch_of(&self.stream), Ok)
        {
            Ok(watch) => self.end_watch.insert(watch),
            Err(error) => {
                tracing::debug!("a connection's end cannot be watched: {error}");
                return Poll::Pending;
            }
        };
        loop {
            ready!(watch.poll_read_ready(context)).ok();
            let readiness = ready!(pin!(watch.ready(Interest::READABLE)).poll(context));
            if !readiness.is_ok_and(|readiness| !readiness.is_read_closed()) {
                return Poll::Ready(());
            }
            // Nothing is read here: from now on only what comes next makes it ready.
            let unread = || io::Result::<()>::Err(io::ErrorKind::WouldBlock.into());
            watch.try_io(Interest::READABLE, unread).ok();
        }
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
        self.end_watch = None;
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

/// A second hold on a connection, with a readiness of its own.
fn watch_of(stream: &TcpStream) -> io::Result<TcpStream> {
    let held = stream.as_fd().try_clone_to_owned()?;
    TcpStream::from_std(net::TcpStream::from(held))
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
