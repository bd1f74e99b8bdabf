//! The server over real sockets.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::{get, post};
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prometheus::IntGauge;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::*;

struct Running {
    address: SocketAddr,
    drain: Drain,
    open: IntGauge,
    served: JoinHandle<Served>,
}

fn router() -> Router {
    Router::new()
        .route("/", get(|| async { "hello" }))
        .route(
            "/slow",
            get(|| async {
                tokio::time::sleep(Duration::from_millis(900)).await;
                "late"
            }),
        )
        .route("/refuse", post(|| async { (http::StatusCode::BAD_REQUEST, "no") }))
        .route("/echo", post(|body: Bytes| async { body }))
        .route("/big", get(|| async { Body::from(vec![b'x'; 64 << 20]) }))
}

fn start(settings: ServerSettings, delay_ms: u64, timeout_ms: u64) -> Running {
    let readiness = Arc::new(Readiness::new());
    readiness.set_ready();
    let settings_of_drain =
        DrainSettings { delay: Duration::from_millis(delay_ms), timeout: Duration::from_millis(timeout_ms) };
    let drain = Drain::new(settings_of_drain, readiness);
    let server = Server::bind(([127, 0, 0, 1], 0).into(), "--port", settings).unwrap();
    let address = server.local_addr();
    let open = IntGauge::new("open", "open").unwrap();
    let served = tokio::spawn(server.serve(router(), drain.clone(), open.clone()));
    Running { address, drain, open, served }
}

/// One answer, head and body, read by Content-Length.
async fn read_answer(stream: &mut TcpStream) -> io::Result<String> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return Ok(text);
            }
        }
        match stream.read(&mut buffer).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => bytes.extend_from_slice(&buffer[..count]),
        }
    }
}

async fn get_path(stream: &mut TcpStream, path: &str) -> io::Result<String> {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: t\r\n\r\n").as_bytes()).await?;
    read_answer(stream).await
}

/// How many clients were answered and how many got a connection without an answer, until the port is closed to all.
async fn hammer(address: SocketAddr, keep_alive: bool, answered: Arc<AtomicUsize>, lost: Arc<AtomicUsize>) {
    'connect: loop {
        let Ok(Ok(mut stream)) = tokio::time::timeout(Duration::from_millis(700), TcpStream::connect(address)).await
        else {
            return;
        };
        loop {
            match get_path(&mut stream, "/").await {
                Ok(text) => {
                    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
                    answered.fetch_add(1, SeqCst);
                    if !keep_alive || text.contains("connection: close") {
                        continue 'connect;
                    }
                }
                Err(error) => {
                    eprintln!("lost: {error}");
                    lost.fetch_add(1, SeqCst);
                    continue 'connect;
                }
            }
        }
    }
}

async fn nobody_is_reset(delay_ms: u64) {
    let running = start(ServerSettings::default(), delay_ms, 10_000);
    let (answered, lost) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..64)
        .map(|index| tokio::spawn(hammer(running.address, index % 2 == 0, answered.clone(), lost.clone())))
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = answered.load(SeqCst);
    assert!(before > 64);
    running.drain.begin();
    assert_eq!(running.served.await.unwrap(), Served { cut: 0 });
    for client in clients {
        client.await.unwrap();
    }
    assert_eq!(lost.load(SeqCst), 0, "of {}", answered.load(SeqCst));
    assert!(answered.load(SeqCst) > before);
    assert_eq!(running.open.get(), 0);
    assert!(TcpStream::connect(running.address).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_client_is_reset_when_the_listener_stops_at_once() {
    nobody_is_reset(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_client_is_reset_when_the_listener_stops_after_a_delay() {
    nobody_is_reset(300).await;
}

/// Connections that the kernel has accepted while the process was busy elsewhere.
#[tokio::test]
async fn the_backlog_is_answered() {
    let readiness = Arc::new(Readiness::new());
    let drain = Drain::new(DrainSettings { delay: Duration::ZERO, timeout: Duration::from_secs(5) }, readiness);
    let server = Server::bind(([127, 0, 0, 1], 0).into(), "--port", ServerSettings::default()).unwrap();
    let mut clients = Vec::new();
    for _ in 0..200 {
        let mut client = TcpStream::connect(server.local_addr()).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nhost: t\r\n\r\n").await.unwrap();
        clients.push(client);
    }
    drain.begin(); // Before the first accept.
    let served = tokio::spawn(server.serve(router(), drain, IntGauge::new("open", "open").unwrap()));
    for mut client in clients {
        let text = get_path(&mut client, "/").await.unwrap();
        assert!(text.contains("connection: close") && text.ends_with("hello"), "{text}");
    }
    assert_eq!(served.await.unwrap(), Served { cut: 0 });
}

#[tokio::test]
async fn during_the_delay_everything_is_answered_with_connection_close() {
    let running = start(ServerSettings::default(), 400, 5_000);
    let mut kept = TcpStream::connect(running.address).await.unwrap();
    assert!(!get_path(&mut kept, "/").await.unwrap().contains("connection: close"));
    running.drain.begin();
    assert!(get_path(&mut kept, "/").await.unwrap().contains("connection: close"));
    assert_eq!(kept.read(&mut [0; 8]).await.unwrap(), 0);
    let mut fresh = TcpStream::connect(running.address).await.unwrap();
    assert!(get_path(&mut fresh, "/").await.unwrap().contains("connection: close"));
    assert_eq!(running.served.await.unwrap(), Served { cut: 0 });
}

#[tokio::test]
async fn a_slow_request_is_finished_and_idle_connections_are_closed_by_fin() {
    let running = start(ServerSettings::default(), 0, 5_000);
    let mut idle = TcpStream::connect(running.address).await.unwrap();
    get_path(&mut idle, "/").await.unwrap();
    let mut unused = TcpStream::connect(running.address).await.unwrap();
    let mut slow = TcpStream::connect(running.address).await.unwrap();
    slow.write_all(b"GET /slow HTTP/1.1\r\nhost: t\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let start = Instant::now();
    running.drain.begin();
    assert_eq!(idle.read(&mut [0; 8]).await.unwrap(), 0);
    assert_eq!(unused.read(&mut [0; 8]).await.unwrap(), 0);
    assert!(start.elapsed() < Duration::from_millis(850), "{:?}", start.elapsed());
    assert!(read_answer(&mut slow).await.unwrap().ends_with("late"));
    drop((idle, unused, slow));
    assert_eq!(running.served.await.unwrap(), Served { cut: 0 });
}

#[tokio::test]
async fn what_outlasts_the_timeout_is_cut_and_counted() {
    let running = start(ServerSettings::default(), 0, 300);
    let mut slow = TcpStream::connect(running.address).await.unwrap();
    slow.write_all(b"GET /slow HTTP/1.1\r\nhost: t\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let start = Instant::now();
    running.drain.begin();
    assert_eq!(running.served.await.unwrap(), Served { cut: 1 });
    assert!(start.elapsed() < Duration::from_millis(800));
    assert!(read_answer(&mut slow).await.is_err());
}

#[tokio::test]
async fn a_slow_loris_is_cut_and_an_idle_connection_is_not() {
    let settings = ServerSettings { header_timeout: Duration::from_millis(200), ..Default::default() };
    let running = start(settings, 0, 1_000);
    let mut idle = TcpStream::connect(running.address).await.unwrap();
    get_path(&mut idle, "/").await.unwrap();
    let mut silent = TcpStream::connect(running.address).await.unwrap();
    let mut loris = TcpStream::connect(running.address).await.unwrap();
    let start = Instant::now();
    let mut sent = 0;
    while start.elapsed() < Duration::from_secs(5) && loris.write_all(b"G").await.is_ok() {
        sent += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!((5..30).contains(&sent), "{sent}");
    assert!(!matches!(silent.read(&mut [0; 8]).await, Ok(1..)));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(get_path(&mut idle, "/").await.unwrap().ends_with("hello"));
}

#[tokio::test]
async fn over_the_bound_connections_wait() {
    let running = start(ServerSettings { max_connections: 2, ..Default::default() }, 0, 1_000);
    let mut first = TcpStream::connect(running.address).await.unwrap();
    let mut second = TcpStream::connect(running.address).await.unwrap();
    get_path(&mut first, "/").await.unwrap();
    get_path(&mut second, "/").await.unwrap();
    assert_eq!(running.open.get(), 2);
    let mut third = TcpStream::connect(running.address).await.unwrap();
    let waiting = tokio::time::timeout(Duration::from_millis(200), get_path(&mut third, "/")).await;
    assert!(waiting.is_err());
    drop(first);
    assert!(read_answer(&mut third).await.unwrap().ends_with("hello"));
}

/// The answer reaches a client that is still sending, although nobody reads what it sends.
#[tokio::test]
async fn a_refused_upload_sees_its_answer() {
    let running = start(ServerSettings::default(), 0, 1_000);
    let mut client = TcpStream::connect(running.address).await.unwrap();
    let size = 8 << 20;
    client
        .write_all(format!("POST /refuse HTTP/1.1\r\nhost: t\r\ncontent-length: {size}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    client.write_all(&vec![b'x'; size]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(read_answer(&mut client).await.unwrap().starts_with("HTTP/1.1 400"));
}

#[tokio::test]
async fn a_client_that_takes_no_answer_is_cut() {
    let settings = ServerSettings { write_timeout: Duration::from_millis(300), ..Default::default() };
    let running = start(settings, 0, 1_000);
    let mut client = TcpStream::connect(running.address).await.unwrap();
    client.write_all(b"GET /big HTTP/1.1\r\nhost: t\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(running.open.get(), 1);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(running.open.get(), 0);
}

/// HTTP/2 with prior knowledge, with a request under way when the drain begins.
#[tokio::test]
async fn http2_is_served_and_drained() {
    let running = start(ServerSettings::default(), 0, 5_000);
    let stream = TcpStream::connect(running.address).await.unwrap();
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = |path: &str| {
        let uri = format!("http://{}{path}", running.address);
        http::Request::get(uri).body(Body::empty()).unwrap()
    };
    let text = async |response: http::Response<hyper::body::Incoming>| response.collect().await.unwrap().to_bytes();
    let response = client.send_request(request("/")).await.unwrap();
    assert_eq!(response.version(), http::Version::HTTP_2);
    assert_eq!(text(response).await, "hello");
    let slow = tokio::spawn(client.send_request(request("/slow")));
    tokio::time::sleep(Duration::from_millis(100)).await;
    running.drain.begin();
    assert_eq!(text(slow.await.unwrap().unwrap()).await, "late");
    assert_eq!(running.served.await.unwrap(), Served { cut: 0 });
}

/// A client of HTTP/2 that never answers, not even the question whether it is there.
#[tokio::test]
async fn a_silent_http2_client_makes_room() {
    let running = start(ServerSettings { max_connections: 1, ..Default::default() }, 0, 1_000);
    let mut silent = TcpStream::connect(running.address).await.unwrap();
    silent.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut other = TcpStream::connect(running.address).await.unwrap();
    let answer = tokio::time::timeout(CROWDED_IDLE + GOAWAY_GRACE + Duration::from_secs(3), get_path(&mut other, "/"));
    assert!(answer.await.expect("no room").unwrap().ends_with("hello"));
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let first = Server::bind(([127, 0, 0, 1], 0).into(), "--port", ServerSettings::default()).unwrap();
    let error = Server::bind(first.local_addr(), "--port", ServerSettings::default()).unwrap_err().to_string();
    assert!(error.contains(&first.local_addr().port().to_string()) && error.contains("--port"), "{error}");
}
