//! What happens when the process has no file descriptor left.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::harness::{Builder, Server, raw_get};

/// Seconds of processor time that the server has taken, in ticks of 10 ms.
fn ticks(server: &Server) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid())).unwrap();
    // The name in parentheses may hold spaces; user and system time are the fields 14 and 15.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

fn complaints(server: &Server) -> usize {
    server.log().iter().filter(|line| line.contains("cannot accept connections")).count()
}

#[test]
fn the_server_waits_for_descriptors_and_makes_idle_connections_give_theirs_up() {
    let server = Builder::with_models(&["colour"]).open_files(64).setting("server.body_timeout", "4s").start();
    // Requests whose bodies never come hold their connections for as long as a body may take.
    let connect = |head: &str| {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        stream
    };
    let begin = Instant::now();
    let head = "POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n";
    let held: Vec<TcpStream> = (0..80).map(|_| connect(head)).collect();
    while complaints(&server) == 0 {
        assert!(begin.elapsed() < Duration::from_secs(3), "{:#?}", server.log());
        std::thread::sleep(Duration::from_millis(10));
    }
    let before = ticks(&server);
    std::thread::sleep(Duration::from_secs(2));
    let spent = ticks(&server) - before;
    assert!(spent < 50, "{spent} ticks of processor time in two seconds of waiting");
    assert_eq!(complaints(&server), 1, "{:#?}", server.log());
    assert!(server.log().iter().any(|line| line.contains("ulimit -n")), "{:#?}", server.log());
    // Descriptors come free when the bodies' time is over.
    assert!(raw_get(server.address(), "/health").unwrap().starts_with("HTTP/1.1 200"));
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    drop(held);

    // Connections without a request give way, though they might be kept for minutes.
    let idle: Vec<TcpStream> = (0..80).map(|_| connect("")).collect();
    let begin = Instant::now();
    assert!(raw_get(server.address(), "/health").unwrap().starts_with("HTTP/1.1 200"));
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    drop(idle);
}
