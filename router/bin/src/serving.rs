//! The listening socket and its connections: how many there may be, how long they may say nothing. Knows no route.

use std::{io, sync::Arc, time::Duration};

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto::Builder, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    task::JoinSet,
    time::{sleep, timeout},
};

/// Pause after a connection that could not be taken, such as for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often a client's first bytes are looked at: nothing tells when the second one comes.
const PEEK_EVERY: Duration = Duration::from_millis(10);
/// How HTTP/2 begins (RFC 9113, section 3.4), where HTTP/1 has a method.
const HTTP2_BEGINS: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What connections may cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionLimits {
    /// How long a connection may be without a complete head of a request, from its start or from the last answer. Longer
    /// than load balancers keep idle connections, which is a minute for most.
    pub(crate) head: Duration,
    /// Connections at once; further ones wait to be taken.
    pub(crate) connections: usize,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(75),
            connections: 8192,
        }
    }
}

/// Serves `app` until `stopped`, or until its sender is gone; then lets open requests finish.
pub(crate) async fn serve(
    listener: TcpListener,
    app: Router,
    limits: ConnectionLimits,
    mut stopped: oneshot::Receiver<()>,
) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            Some(_) = connections.join_next() => {}
            accepted = accept(&listener, &places) => {
                let Some((stream, place)) = accepted else {
                    continue;
                };
                let watcher = graceful.watcher();
                let app = TowerToHyperService::new(app.clone());
                connections.spawn(async move {
                    let Some(builder) = builder(&stream, limits.head).await else {
                        return;
                    };
                    let connection = builder.serve_connection(TokioIo::new(stream), app);
                    if let Err(error) = watcher.watch(connection.into_owned()).await {
                        tracing::debug!("a connection broke: {error}");
                    }
                    drop(place);
                });
            }
        }
    }
    drop(listener);
    graceful.shutdown().await;
}

/// The next connection, once there is a place for it.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let place = places.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => {
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!("a connection keeps its delay: {error}");
            }
            Some((stream, place))
        }
        Err(error) if is_the_clients(&error) => None,
        Err(error) => {
            tracing::warn!("a connection cannot be taken: {error}");
            sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

fn is_the_clients(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
    )
}

/// The protocol that the client's first bytes speak; `None` when they do not come in time.
async fn builder(stream: &TcpStream, limit: Duration) -> Option<Builder<TokioExecutor>> {
    let begins_http2 = timeout(limit, begins_http2(stream)).await.ok()?.ok()?;
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limit);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(limit)
        .keep_alive_timeout(limit);
    Some(if begins_http2 {
        builder.http2_only()
    } else {
        builder.http1_only()
    })
}

async fn begins_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut bytes = [0; HTTP2_BEGINS.len()];
    loop {
        let count = stream.peek(&mut bytes).await?;
        let seen = bytes.get(..count).unwrap_or_default();
        if seen == HTTP2_BEGINS {
            return Ok(true);
        }
        if seen.is_empty() || !HTTP2_BEGINS.starts_with(seen) {
            return Ok(false);
        }
        sleep(PEEK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const SOON: Duration = Duration::from_secs(30);

    struct Server {
        address: SocketAddr,
        stop: oneshot::Sender<()>,
        tasks: JoinSet<()>,
    }

    async fn server(head: Duration, connections: usize) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let app = Router::new().route("/", get(async || "hello"));
        let (stop, stopped) = oneshot::channel();
        let mut tasks = JoinSet::new();
        let limits = ConnectionLimits { head, connections };
        tasks.spawn(serve(listener, app, limits, stopped));
        Server {
            address,
            stop,
            tasks,
        }
    }

    /// What the server says to `words`, until it closes the connection.
    async fn said(address: SocketAddr, words: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("connected");
        stream.write_all(words.as_bytes()).await.expect("sent");
        let mut heard = Vec::new();
        let closed = timeout(SOON, stream.read_to_end(&mut heard)).await;
        closed.expect("the connection is closed").ok();
        String::from_utf8_lossy(&heard).into_owned()
    }

    #[tokio::test]
    async fn a_client_that_never_ends_its_head_is_let_go() {
        let server = server(Duration::from_millis(100), 16).await;
        let http2 = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let http1 = "GET / HTTP/1.1\r\nHost: x\r\n";
        for words in ["", "P", "PRI * HTTP/2.0\r\n", http2, "GET", http1] {
            let heard = said(server.address, words).await;
            assert!(!heard.contains("200 OK"), "{words:?}: {heard}");
        }
        let request = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        assert!(said(server.address, request).await.ends_with("hello"));
    }

    #[tokio::test]
    async fn idle_connections_do_not_keep_others_out_for_ever() {
        let server = server(Duration::from_millis(100), 1).await;
        let _idle = TcpStream::connect(server.address).await.expect("connected");
        let request = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        assert!(said(server.address, request).await.ends_with("hello"));
    }

    #[tokio::test]
    async fn an_idle_connection_is_closed_when_the_server_stops() {
        let mut server = server(Duration::from_hours(1), 16).await;
        let mut stream = TcpStream::connect(server.address).await.expect("connected");
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .expect("sent");
        let mut heard = [0; 12];
        timeout(SOON, stream.read_exact(&mut heard))
            .await
            .expect("answered")
            .expect("read");
        server.stop.send(()).expect("it runs");
        let ended = timeout(SOON, server.tasks.join_next()).await;
        ended.expect("it ends").expect("a task").expect("no panic");
    }
}
