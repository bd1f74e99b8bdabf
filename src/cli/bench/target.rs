//! What is asked: the requests, made once and sent again and again.

use std::fs;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Uri};

use super::Failure;
use crate::cli::args::{BenchArgs, BenchContent};

/// The route of the default endpoint, for a URL that has none.
const DEFAULT_ROUTE: &str = "/predict";

/// A request as it goes over the wire.
#[derive(Debug)]
struct Request {
    /// Head and body.
    bytes: Vec<u8>,
    /// How much of it is the body.
    body: u64,
}

/// A server and the requests for it.
#[derive(Debug)]
pub struct Target {
    /// The URL in full, for the report.
    pub url: String,
    /// A name or an address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Requests that take turns; at least one.
    requests: Vec<Request>,
}

impl Target {
    /// Reads the URL and the files.
    pub fn new(arguments: &BenchArgs) -> Result<Self, Failure> {
        let uri = parse_url(&arguments.url, arguments.content.get)?;
        let bodies = bodies(&arguments.content, arguments.instances_per_request as usize)?;
        let requests = bodies.iter().map(|body| request(&uri, body, arguments)).collect::<Result<_, _>>()?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        Ok(Self { url: uri.to_string(), host, port: uri.port_u16().unwrap_or(80), requests })
    }

    /// One request, for the tests of connections.
    #[cfg(test)]
    pub fn of(port: u16, bytes: Vec<u8>) -> Self {
        let requests = vec![Request { bytes, body: 0 }];
        Self { url: String::new(), host: "127.0.0.1".to_owned(), port, requests }
    }

    /// The request whose turn it is, head and body.
    pub fn request(&self, turn: usize) -> &[u8] {
        &self.requests[turn % self.requests.len()].bytes
    }

    /// The bytes of the body of the request whose turn it is.
    pub fn body_length(&self, turn: usize) -> u64 {
        self.requests[turn % self.requests.len()].body
    }
}

fn parse_url(text: &str, is_get: bool) -> Result<Uri, Failure> {
    // `localhost:8080` is a scheme to the letter of the RFC; everybody means a host.
    let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let wrong = |reason: &str| Failure(format!("{text}: {reason}"));
    let uri: Uri = full.parse().map_err(|error: http::uri::InvalidUri| wrong(&error.to_string()))?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => return Err(wrong("only http is spoken here; ask the server behind the TLS proxy")),
        _ => return Err(wrong("expected a URL such as http://localhost:8080")),
    }
    if uri.path() != "/" || uri.query().is_some() || is_get {
        return Ok(uri);
    }
    let mut parts = uri.into_parts();
    parts.path_and_query = Some(http::uri::PathAndQuery::from_static(DEFAULT_ROUTE));
    Uri::from_parts(parts).map_err(|error| wrong(&error.to_string()))
}

/// The bodies, in the order of their turns. With images it is as many as it takes until the first one starts a body
/// again.
fn bodies(content: &BenchContent, instances: usize) -> Result<Vec<Bytes>, Failure> {
    if content.get {
        return Ok(vec![Bytes::new()]);
    }
    if content.image.is_empty() {
        return content.body.iter().map(|path| read(path).map(Bytes::from)).collect();
    }
    let encode = |path| Ok(format!(r#"{{"b64":"{}"}}"#, STANDARD.encode(read(path)?)));
    let images = content.image.iter().map(encode).collect::<Result<Vec<String>, Failure>>()?;
    let count = images.len() / greatest_common_divisor(images.len(), instances);
    let body = |turn: usize| {
        let its: Vec<&str> = images.iter().cycle().skip(turn * instances).take(instances).map(String::as_str).collect();
        Bytes::from(format!(r#"{{"instances":[{}]}}"#, its.join(",")))
    };
    Ok((0..count).map(body).collect())
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

fn read(path: &PathBuf) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|error| Failure(format!("{}: {error}", path.display())))
}

/// The bytes of a request of HTTP/1.1 (RFC 9112).
fn request(uri: &Uri, body: &[u8], arguments: &BenchArgs) -> Result<Request, Failure> {
    // An HTTP/1.1 server is asked for the path alone; `host` says the rest.
    let route = uri.path_and_query().map_or("/", |route| route.as_str());
    let host = uri.authority().map_or("", |authority| authority.as_str());
    let mut headers = HeaderMap::new();
    headers.insert(HOST, HeaderValue::from_str(host).map_err(Failure::new)?);
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("tessera-bench/", env!("CARGO_PKG_VERSION"))));
    if !arguments.content.get {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    for (name, value) in &arguments.header {
        headers.insert(name, value.clone());
    }
    if !arguments.content.get {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    let method = if arguments.content.get { "GET" } else { "POST" };
    let mut bytes = format!("{method} {route} HTTP/1.1\r\n").into_bytes();
    for (name, value) in &headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            bytes.extend_from_slice(part);
        }
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    Ok(Request { bytes, body: body.len() as u64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_alone_is_asked_at_its_default_endpoint() {
        for (text, expected) in [
            ("http://a:1", "http://a:1/predict"),
            ("http://a:1/", "http://a:1/predict"),
            ("a:1", "http://a:1/predict"),
            ("http://a/v1/endpoints/e:predict", "http://a/v1/endpoints/e:predict"),
            ("http://[::1]:80", "http://[::1]:80/predict"),
            ("http://a/?x=1", "http://a/?x=1"),
        ] {
            assert_eq!(parse_url(text, false).unwrap().to_string(), expected);
        }
        assert_eq!(parse_url("http://a", true).unwrap().path(), "/");
    }

    #[test]
    fn a_url_that_cannot_be_asked_is_refused() {
        for (text, reason) in [("https://a", "TLS"), ("ftp://a", "expected"), ("http://", "http://:")] {
            let Failure(message) = parse_url(text, false).unwrap_err();
            assert!(message.contains(reason), "{message}");
        }
    }

    #[test]
    fn images_take_turns() {
        let folder = tempfile::tempdir().unwrap();
        let image = ["a", "b", "c"].map(|name| folder.path().join(name)).to_vec();
        image.iter().for_each(|path| fs::write(path, path.file_name().unwrap().as_encoded_bytes()).unwrap());
        let content = BenchContent { image, ..BenchContent::default() };
        let [a, b, c] = ["YQ==", "Yg==", "Yw=="].map(|text| format!(r#"{{"b64":"{text}"}}"#));
        assert_eq!(bodies(&content, 3).unwrap(), [format!(r#"{{"instances":[{a},{b},{c}]}}"#)]);
        let pairs = [(&a, &b), (&c, &a), (&b, &c)].map(|(x, y)| format!(r#"{{"instances":[{x},{y}]}}"#));
        assert_eq!(bodies(&content, 2).unwrap(), pairs);
    }
}
