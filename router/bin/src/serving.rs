//! The listening socket and its connections: how many there may be, how long they may say nothing. Knows no route.

use std::{
    future::{Future, poll_fn},
    io,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto::Builder,
        graceful::{GracefulShutdown, Watcher},
    },
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::read_ahead::ReadAhead;

/// Pause after a connection that could not be taken, such as for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often a client's first bytes are looked at: nothing tells when the second one comes.
const PEEK_EVERY: Duration = Duration::from_millis(10);
/// Bytes of a request's head that are read in any case; twice as many are always answered 431.
const MAX_HEAD_BYTES: usize = 64 << 10;
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
                let served = serve_one(stream, app.clone(), limits.head, graceful.watcher());
                connections.spawn(async move {
                    served.await;
                    drop(place);
                });
            }
        }
    }
    drop(listener);
    graceful.shutdown().await;
}

/// Serves one connection until either side has had enough.
async fn serve_one(stream: TcpStream, app: Router, head: Duration, watcher: Watcher) {
    let Ok(Ok(is_http2)) = timeout(head, begins_http2(&stream)).await else {
        return;
    };
    let stream = ReadAhead::new(stream);
    let app = TowerToHyperService::new(app);
    let builder = builder(is_http2, head);
    let connection = builder.serve_connection(TokioIo::new(stream.clone()), app);
    let mut serving = pin!(watcher.watch(connection.into_owned()));
    let ended = poll_fn(|context| match serving.as_mut().poll(context) {
        Poll::Pending if is_http2 => Poll::Pending,
        Poll::Pending => stream.poll_left(context).map(|()| Ok(())),
        ended @ Poll::Ready(_) => ended,
    });
    if let Err(error) = ended.await {
        tracing::debug!("a connection broke: {error}");
    }
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

/// A server of the protocol that the client speaks.
fn builder(is_http2: bool, limit: Duration) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .writev(false) // a token and its frame are cheaper copied together than gathered
        .timer(TokioTimer::new())
        .max_buf_size(MAX_HEAD_BYTES)
        .header_read_timeout(limit);
    builder
        .http2()
        .timer(TokioTimer::new())
        // A head of more bytes is answered 431; one of a third more ends the connection, as h2 reads no more frames of it.
        .max_header_list_size(2 * MAX_HEAD_BYTES as u32)
        .keep_alive_interval(limit)
        .keep_alive_timeout(limit);
    if is_http2 {
        builder.http2_only()
    } else {
        builder.http1_only()
    }
}

/// Whether the client's first bytes speak HTTP/2.
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

    use axum::{
        http::Request,
        routing::{get, post},
    };
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        sync::watch,
    };

    use super::*;

    const SOON: Duration = Duration::from_secs(30);

    struct Server {
        address: SocketAddr,
        stop: oneshot::Sender<()>,
        tasks: JoinSet<()>,
    }

    async fn server(head: Duration, connections: usize) -> Server {
        let app = Router::new().route("/", get(async || "hello"));
        server_of(app, head, connections).await
    }

    async fn server_of(app: Router, head: Duration, connections: usize) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
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

    /// Tells when it is dropped.
    struct Working(watch::Sender<u32>);

    impl Drop for Working {
        fn drop(&mut self) {
            self.0.send_modify(|ends| *ends += 1);
        }
    }

    /// A route whose answer never comes, and a count of those that were begun and of those that were dropped.
    fn endless() -> (Router, watch::Receiver<u32>, watch::Receiver<u32>) {
        let (starts, begun) = watch::channel(0);
        let (end, ended) = watch::channel(0);
        let work = move || {
            let working = Working(end.clone());
            starts.send_modify(|count| *count += 1);
            async move {
                std::future::pending::<()>().await;
                drop(working);
            }
        };
        (Router::new().route("/", post(work)), begun, ended)
    }

    async fn reaches(count: &mut watch::Receiver<u32>, number: u32) {
        let reached = timeout(SOON, count.wait_for(|count| *count >= number)).await;
        reached.expect("in time").expect("the sender lives");
    }

    #[tokio::test]
    async fn a_client_that_leaves_is_noticed_whatever_it_sent_behind_its_body() {
        let (app, mut begun, mut ended) = endless();
        let server = server_of(app, SOON, 16).await;
        let request = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}";
        // More than is read ahead, and less than is held for a reader that does not come.
        let much = "x".repeat(96 << 10);
        let behind = ["", "\r\n", "\n\n\n", "GET / HTTP/1.1\r\n", request, &much];
        for (number, behind) in (1..).zip(behind) {
            let mut stream = TcpStream::connect(server.address).await.expect("connected");
            let words = format!("{request}{behind}");
            stream.write_all(words.as_bytes()).await.expect("sent");
            reaches(&mut begun, number).await;
            drop(stream);
            reaches(&mut ended, number).await;
        }
        assert_eq!(*begun.borrow(), 6, "what was sent behind was never begun");
    }

    #[tokio::test]
    async fn a_client_that_sends_no_more_counts_as_gone() {
        let (app, mut begun, mut ended) = endless();
        let server = server_of(app, SOON, 16).await;
        let mut stream = TcpStream::connect(server.address).await.expect("connected");
        let request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}";
        stream.write_all(request).await.expect("sent");
        reaches(&mut begun, 1).await;
        stream.shutdown().await.expect("half of it closed");
        reaches(&mut ended, 1).await;
        let mut heard = Vec::new();
        let closed = timeout(SOON, stream.read_to_end(&mut heard)).await;
        closed.expect("in time").expect("closed in order");
        assert_eq!(heard, b"");
    }

    #[tokio::test]
    async fn much_that_is_sent_together_is_all_answered() {
        let (pass, passed) = watch::channel(false);
        let slow = move |body: String| {
            let mut passed = passed.clone();
            async move {
                passed
                    .wait_for(|passed| *passed)
                    .await
                    .expect("the sender lives");
                body.len().to_string()
            }
        };
        let server = server_of(Router::new().route("/", post(slow)), SOON, 16).await;
        let body = "x".repeat(96 << 10);
        let length = body.len();
        let head = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n");
        let words = format!("{head}\r\n{body}{head}Connection: close\r\n\r\n{body}");
        let mut stream = TcpStream::connect(server.address).await.expect("connected");
        stream.write_all(words.as_bytes()).await.expect("sent");
        pass.send_replace(true);
        let mut said = String::new();
        let closed = timeout(SOON, stream.read_to_string(&mut said)).await;
        closed.expect("in time").expect("closed in order");
        assert_eq!(said.matches(&length.to_string()).count(), 2, "{said}");
    }

    #[tokio::test]
    async fn requests_sent_together_are_answered_in_their_order() {
        let echo = async |body: String| body;
        let server = server_of(Router::new().route("/", post(echo)), SOON, 16).await;
        let body = |number: usize| format!("{number}").repeat(4_000);
        let one = |number| {
            let body = body(number);
            format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4000\r\n\r\n{body}")
        };
        let words: Vec<String> = (0..9).map(one).collect();
        let last = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let heard = said(server.address, &(words.concat() + last)).await;
        let places: Vec<_> = (0..9)
            .map(|number| heard.find(&body(number)).expect("answered"))
            .collect();
        assert!(places.is_sorted());
    }

    #[tokio::test]
    async fn a_head_may_be_long_but_not_endless() {
        let server = server(SOON, 16).await;
        let request = |length: usize| {
            let long = "x".repeat(length);
            format!("GET / HTTP/1.1\r\nHost: x\r\nX-Long: {long}\r\nConnection: close\r\n\r\n")
        };
        let heard = said(server.address, &request(32 << 10)).await;
        assert!(heard.starts_with("HTTP/1.1 200 OK"), "{heard}");
        let mut stream = TcpStream::connect(server.address).await.expect("connected");
        // The server may close before all is sent.
        stream.write_all(request(200 << 10).as_bytes()).await.ok();
        let mut heard = Vec::new();
        let closed = timeout(SOON, stream.read_to_end(&mut heard)).await;
        closed.expect("the connection is closed").ok();
        let heard = String::from_utf8_lossy(&heard).into_owned();
        assert!(
            heard.is_empty() || heard.starts_with("HTTP/1.1 431"),
            "{heard}"
        );
    }

    #[tokio::test]
    async fn a_long_head_over_http2_is_refused_and_its_connection_goes_on() {
        let server = server(SOON, 16).await;
        let stream = TcpStream::connect(server.address).await.expect("connected");
        let (requests, connection) = h2::client::handshake(stream).await.expect("http2");
        let mut tasks = JoinSet::new();
        tasks.spawn(connection);
        for (length, status) in [(60 << 10, 200), (130 << 10, 431), (1, 200)] {
            let long = "x".repeat(length);
            let request = Request::get("http://x/").header("x-long", long);
            let request = request.body(()).expect("a request");
            let mut requests = requests.clone().ready().await.expect("connected");
            let (answer, _) = requests.send_request(request, true).expect("sent");
            let answer = timeout(SOON, answer).await.expect("in time");
            assert_eq!(answer.expect("answered").status().as_u16(), status);
        }
    }

    #[tokio::test]
    async fn http2_is_spoken_to_clients_that_begin_so() {
        let server = server(SOON, 16).await;
        let mut stream = TcpStream::connect(server.address).await.expect("connected");
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        // GET, http, "/", and the authority "x", as the static table of HPACK has them.
        let fields = [0x82, 0x86, 0x84, 0x41, 1, b'x'];
        let (ends_stream, ends_headers) = (1, 4);
        let frame = [
            0,
            0,
            fields.len() as u8,
            1,
            ends_stream | ends_headers,
            0,
            0,
            0,
            1,
        ];
        let words = [HTTP2_BEGINS, &settings, &frame, &fields].concat();
        stream.write_all(&words).await.expect("sent");
        let mut heard = Vec::new();
        while !heard.windows(5).any(|window| window == b"hello") {
            let read = timeout(SOON, stream.read_buf(&mut heard)).await;
            assert_ne!(read.expect("in time").expect("read"), 0, "{heard:?}");
        }
    }
}
