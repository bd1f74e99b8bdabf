//! What holds: every setting with its type. `config.toml` says what each of them does; the comments here give units
//! and what the absence of a value means.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::artifact::{ArtifactUri, Variables};
use crate::engine::onnx::{IoBinding, Provider};
use crate::observe::LogFormat;

use super::container::Container;
use super::endpoints::{self, Endpoint};
use super::error::{Origin, ProblemKind};
use super::layers::Value;
use super::log_level;
use super::print::{duration, optional_port, path, size};
use super::reader::{self, Expected, Parsed, Reader, boolean, choice, integer, name, optional_path, texts};

/// Everything that can be set.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Settings {
    /// The id of the endpoint that answers routes which name none. Whether it exists, only the repository shows.
    pub default_endpoint: String,
    /// The project in resource names.
    pub project: String,
    /// The location in resource names.
    pub location: String,
    /// `[server]`
    pub server: Server,
    /// `[tls]`
    pub tls: Tls,
    /// `[auth]`
    pub auth: Auth,
    /// `[grpc]`
    pub grpc: Grpc,
    /// `[limits]`
    pub limits: Limits,
    /// `[explain]`
    pub explain: Explain,
    /// `[engine]`
    pub engine: Engine,
    /// `[repository]`
    pub repository: Repository,
    /// `[artifacts]`
    pub artifacts: Artifacts,
    /// `[state]`
    pub state: State,
    /// `[log]`
    pub log: Log,
    /// `[[endpoint]]`
    #[serde(rename = "endpoint", skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<Endpoint>,
    /// What Vertex AI says by `AIP_*`.
    #[serde(skip)]
    pub container: Container,
    /// What is not wrong and yet hardly meant: to be shown to whoever starts the program.
    #[serde(skip)]
    pub warnings: Vec<String>,
    /// The file that was read.
    #[serde(skip)]
    pub file: Option<PathBuf>,
    /// Where values were set that are not the built-in ones, by their full paths.
    #[serde(skip)]
    pub origins: BTreeMap<String, Origin>,
}

/// `[server]`: listeners, and how long things may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "config.toml documents them")]
pub struct Server {
    pub host: String,
    pub port: u16,
    pub admin_host: String,
    /// `None`: closed.
    #[serde(serialize_with = "optional_port")]
    pub admin_port: Option<u16>,
    #[serde(serialize_with = "duration")]
    pub drain_delay: Duration,
    #[serde(serialize_with = "duration")]
    pub drain_timeout: Duration,
    #[serde(serialize_with = "duration")]
    pub header_timeout: Duration,
    #[serde(serialize_with = "duration")]
    pub idle_timeout: Duration,
    #[serde(serialize_with = "duration")]
    pub body_timeout: Duration,
    #[serde(serialize_with = "duration")]
    pub request_timeout: Duration,
    pub max_connections: usize,
    /// Origins as browsers send them, or `*`. Empty: no CORS.
    pub cors_origins: Vec<String>,
}

/// `[grpc]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Grpc {
    /// `None`: no gRPC at all. That of the API: on no other.
    #[serde(serialize_with = "optional_port")]
    pub port: Option<u16>,
    /// By TLS. `None`: on no port of its own.
    #[serde(serialize_with = "optional_port")]
    pub tls_port: Option<u16>,
}

/// `[tls]`: HTTPS, and gRPC by TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tls {
    /// PEM. `None`: no TLS.
    #[serde(serialize_with = "path")]
    pub certificate: Option<PathBuf>,
    /// PEM. There is one if there is a certificate.
    #[serde(serialize_with = "path")]
    pub key: Option<PathBuf>,
    /// Of HTTPS. `None`: closed.
    #[serde(serialize_with = "optional_port")]
    pub port: Option<u16>,
    /// Where clients reach that port, as `host:port`. Empty: on localhost.
    pub dedicated_dns: String,
}

/// `[auth]`: who is let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Auth {
    /// `None`: none.
    #[serde(serialize_with = "path")]
    pub tokens_file: Option<PathBuf>,
    /// Tokens that may do everything.
    pub tokens: Secrets,
}

/// Texts that are never shown.
#[derive(Default, Clone, PartialEq, Eq)]
pub struct Secrets(pub Vec<String>);

impl std::fmt::Debug for Secrets {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} hidden", self.0.len())
    }
}

/// How many there are, in a form that is refused when it is read back: a token has no space.
impl Serialize for Secrets {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let shown = (!self.0.is_empty()).then(|| format!("{self:?}"));
        serializer.collect_seq(shown)
    }
}

/// `[limits]`: what requests may cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "config.toml documents them")]
pub struct Limits {
    /// Bytes.
    #[serde(serialize_with = "size")]
    pub body: usize,
    pub instances: usize,
    pub pixels: u64,
    pub request_pixels: u64,
    /// Bytes.
    #[serde(serialize_with = "size")]
    pub decode_bytes: usize,
    pub queue_items: usize,
    /// Bytes.
    #[serde(serialize_with = "size")]
    pub queue_bytes: usize,
}

/// `[explain]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explain {
    /// Fields of a picture, in each direction.
    pub image_grid: usize,
}

/// `[engine]`: how models are run. A count of 0 leaves the choice to the engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "config.toml documents them")]
pub struct Engine {
    pub provider: Provider,
    pub fallback: bool,
    pub device_id: u16,
    /// `None`: to be searched for.
    #[serde(serialize_with = "path")]
    pub library: Option<PathBuf>,
    pub library_directories: Vec<PathBuf>,
    pub threads: usize,
    pub workers: usize,
    pub spin: bool,
    pub max_batch: usize,
    #[serde(serialize_with = "duration")]
    pub max_delay: Duration,
    pub warm_up: bool,
    pub preprocess_threads: usize,
    pub io_binding: IoBinding,
    pub cuda: Cuda,
    pub tensorrt: TensorRt,
}

/// `[engine.cuda]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "config.toml documents them")]
pub struct Cuda {
    pub graphs: bool,
    pub tf32: bool,
    /// Bytes.
    #[serde(serialize_with = "size")]
    pub memory_limit: usize,
}

/// `[engine.tensorrt]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "config.toml documents them")]
pub struct TensorRt {
    pub fp16: bool,
    pub graphs: bool,
    /// `None`: engines are not kept.
    #[serde(serialize_with = "path")]
    pub engine_cache: Option<PathBuf>,
}

/// `[repository]`: where models lie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Repository {
    /// The setting, or what `AIP_STORAGE_DIR`, `AIP_STORAGE_URI` or `--models` put in its place.
    pub directory: PathBuf,
    /// What becomes of the start when a model can't be loaded.
    pub on_error: OnError,
}

/// What becomes of the start when a model can't be loaded.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// It ends.
    #[default]
    Fail,
    /// The other models are served.
    Skip,
}

/// `[artifacts]`: models that are named by a URI.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Artifacts {
    /// Folders by the `gs://` and `s3://` prefixes that they stand in for.
    pub map: BTreeMap<String, String>,
    /// `None`: below the system's folder for temporary files.
    #[serde(serialize_with = "path")]
    pub directory: Option<PathBuf>,
    /// Bytes.
    #[serde(serialize_with = "size")]
    pub max_bytes: usize,
    /// What the environment says of stores and credentials.
    #[serde(skip)]
    pub variables: Variables,
}

/// `[state]`: what is made over the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct State {
    /// Where it is kept. `None`: in memory only.
    #[serde(serialize_with = "path")]
    pub directory: Option<PathBuf>,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Log {
    /// Directives as `tracing_subscriber::EnvFilter` takes them.
    pub level: String,
    /// The form of a line.
    pub format: LogFormat,
}

const HOUR: Duration = Duration::from_secs(3600);
const MILLISECOND: Duration = Duration::from_millis(1);

impl Settings {
    /// Reads the merged layers; what is wrong is left in the reader.
    pub(super) fn read(reader: &mut Reader<'_>, container: Container) -> Self {
        let server = reader.section("server", |reader| Server::read(reader, &container));
        let tls = reader.section("tls", |reader| Tls::read(reader, &server, &container));
        let grpc = reader.section("grpc", |reader| Grpc::read(reader, &server, &tls, &container));
        Self {
            default_endpoint: reader.read("default_endpoint", endpoints::id),
            project: reader.read("project", endpoints::id),
            location: reader.read("location", endpoints::id),
            server,
            tls,
            auth: reader.section("auth", |reader| Auth {
                tokens_file: reader.read("tokens_file", optional_path),
                tokens: reader.read("tokens", read_secrets),
            }),
            grpc,
            limits: reader.section("limits", Limits::read),
            explain: reader
                .section("explain", |reader| Explain { image_grid: reader.read("image_grid", integer(1..=32, 7)) }),
            engine: reader.section("engine", Engine::read),
            repository: reader.section("repository", Repository::read),
            artifacts: reader.section("artifacts", |reader| Artifacts {
                map: reader.read("map", read_map),
                directory: reader.read("directory", optional_path),
                max_bytes: reader.read("max_bytes", reader::size(1 << 20..=1 << 50, "50GiB")),
                variables: Variables::default(),
            }),
            state: reader.section("state", |reader| State { directory: reader.read("directory", optional_path) }),
            log: reader.section("log", Log::read),
            endpoints: Vec::new(),
            container,
            warnings: Vec::new(),
            file: None,
            origins: BTreeMap::new(),
        }
    }
}

impl Server {
    fn read(reader: &mut Reader<'_>, container: &Container) -> Self {
        let closed = container.is_assigned_a_port;
        let server = Self {
            host: reader.read("host", name),
            port: reader.read("port", integer(0..=65_535, 8080)),
            admin_host: reader.read("admin_host", name),
            admin_port: reader
                .read("admin_port", |value| read_port(value, (!closed).then_some(ADMIN_PORT), ADMIN_PORT)),
            drain_delay: reader.read("drain_delay", reader::duration(Duration::ZERO..=HOUR / 6, "5s")),
            drain_timeout: reader.read("drain_timeout", reader::duration(Duration::ZERO..=HOUR, "20s")),
            header_timeout: reader.read("header_timeout", timeout(100 * MILLISECOND)),
            idle_timeout: reader.read("idle_timeout", timeout(100 * MILLISECOND)),
            body_timeout: reader.read("body_timeout", timeout(100 * MILLISECOND)),
            request_timeout: reader.read("request_timeout", timeout(MILLISECOND)),
            max_connections: reader.read("max_connections", integer(1..=1_000_000, 4096)),
            cors_origins: reader.read("cors_origins", read_origins),
        };
        if server.port != 0 && server.admin_port == Some(server.port) && server.has_one_host() {
            let reason = format!(
                "{} is the admin port too; give one of them another number, or \"off\" to server.admin_port",
                server.port
            );
            reader.refuse("port", &Origin::Default, ProblemKind::Inconsistent(reason));
        }
        server
    }

    /// Whether the API's and the admin's address share their ports.
    fn has_one_host(&self) -> bool {
        let wild = |host: &str| matches!(host, "0.0.0.0" | "::" | "[::]");
        self.host == self.admin_host || wild(&self.host) || wild(&self.admin_host)
    }
}

impl Grpc {
    fn read(reader: &mut Reader<'_>, server: &Server, tls: &Tls, container: &Container) -> Self {
        let auto = container.grpc_port.or((!container.is_assigned_a_port).then_some(GRPC_PORT));
        let port = reader.read("port", |value| read_port(value, auto, GRPC_PORT));
        if port.is_some_and(|port| port != 0) && port == server.admin_port && server.has_one_host() {
            let reason = "is the admin port too; give one of them another number, or \"off\"".to_owned();
            reader.refuse("port", &Origin::Default, ProblemKind::Inconsistent(reason));
        }
        let auto =
            (tls.certificate.is_some() && port.is_some() && !container.is_assigned_a_port).then_some(GRPC_TLS_PORT);
        let tls_port = reader.read("tls_port", |value| read_port(value, auto, GRPC_TLS_PORT));
        if tls_port.is_some() && tls.certificate.is_none() {
            let reason = "needs tls.certificate and tls.key".to_owned();
            reader.refuse("tls_port", &Origin::Default, ProblemKind::Inconsistent(reason));
        }
        Self { port, tls_port }
    }
}

impl Tls {
    fn read(reader: &mut Reader<'_>, server: &Server, container: &Container) -> Self {
        let certificate = reader.read("certificate", optional_path);
        let key = reader.read("key", optional_path);
        let auto = (certificate.is_some() && !container.is_assigned_a_port).then_some(HTTPS_PORT);
        let port = reader.read("port", |value| read_port(value, auto, HTTPS_PORT));
        let dedicated_dns = reader.read("dedicated_dns", read_authority);
        let mut refuse = |key, reason: &str| {
            reader.refuse(key, &Origin::Default, ProblemKind::Inconsistent(reason.to_owned()));
        };
        match (&certificate, &key) {
            (Some(_), None) => refuse("certificate", "needs tls.key, the certificate's private key"),
            (None, Some(_)) => refuse("key", "needs tls.certificate, which the key belongs to"),
            (None, None) if port.is_some() => refuse("port", "needs tls.certificate and tls.key"),
            _ => {}
        }
        if port.is_some_and(|port| port != 0) && port == Some(server.port) {
            refuse("port", "is server.port too, which speaks without TLS; give one of them another number");
        }
        Self { certificate, key, port, dedicated_dns }
    }

    /// Where clients reach HTTPS, as `host:port`; `None` where there is none.
    pub fn authority(&self) -> Option<String> {
        let port = self.port?;
        Some(match self.dedicated_dns.as_str() {
            "" => format!("localhost:{port}"),
            authority => authority.to_owned(),
        })
    }
}

/// A list of tokens; in a variable also as it is, divided by commas. What is wrong with one is not said here, where it
/// would be repeated.
fn read_secrets(value: &Value) -> Parsed<Secrets> {
    let split =
        |text: &str| text.split(',').map(str::trim).filter(|token| !token.is_empty()).map(str::to_owned).collect();
    match (texts(value), value) {
        (Ok(tokens), _) => Ok(Secrets(tokens)),
        // A list that is none; no token has a space, so that it is refused where tokens are read.
        (Err(_), Value::Raw(text)) if text.trim_start().starts_with('[') => Ok(Secrets(vec!["not a list".to_owned()])),
        (Err(_), Value::Raw(text) | Value::String(text)) => Ok(Secrets(split(text))),
        (Err(_), _) => Err(Expected("a list of tokens".to_owned(), "[\"...\"]".to_owned())),
    }
}

/// A host, and perhaps a port; or nothing.
fn read_authority(value: &Value) -> Parsed<String> {
    let authority = reader::text(value).unwrap_or_else(|_| " ".to_owned());
    let fits = |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '.' | ':' | '[' | ']');
    match authority.len() <= 255 && authority.chars().all(fits) {
        true => Ok(authority),
        false => Err(Expected("a host, and a port if it isn't 443".to_owned(), "\"localhost:8443\"".to_owned())),
    }
}

fn timeout(least: Duration) -> impl FnOnce(&Value) -> Parsed<Duration> {
    reader::duration(RangeInclusive::new(least, HOUR), "60s")
}

/// The numbers that "auto" stands for outside Vertex AI.
const ADMIN_PORT: u16 = 9091;
const GRPC_PORT: u16 = 8500;
const GRPC_TLS_PORT: u16 = 8501;
const HTTPS_PORT: u16 = 8443;

/// A port, "off", or "auto", which is what `auto` says.
fn read_port(value: &Value, auto: Option<u16>, example: u16) -> Parsed<Option<u16>> {
    match reader::text(value).as_deref() {
        Ok("off") => return Ok(None),
        Ok("auto") => return Ok(auto),
        _ => {}
    }
    integer(0..=65_535, 0)(value).map(Some).map_err(|_| {
        let range = "an integer from 0 to 65535, \"off\" or \"auto\"";
        Expected(range.to_owned(), example.to_string())
    })
}

fn read_origins(value: &Value) -> Parsed<Vec<String>> {
    let origins = texts(value)?;
    // An origin is a scheme and an authority: a path, even "/", would never equal what a browser sends.
    let is_origin = |origin: &String| {
        origin == "*"
            || origin
                .split_once("://")
                .is_some_and(|(scheme, host)| !scheme.is_empty() && !host.is_empty() && !host.contains(['/', ' ']))
    };
    if origins.iter().all(is_origin) {
        return Ok(origins);
    }
    Err(Expected("a list of origins without a path, or [\"*\"]".to_owned(), "[\"https://example.org\"]".to_owned()))
}

impl Limits {
    fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            body: reader.read("body", reader::size(1 << 10..=1 << 31, "32MiB")),
            instances: reader.read("instances", integer(1..=100_000, 256)),
            pixels: reader.read("pixels", integer(1..=1_000_000_000, 50_000_000)),
            request_pixels: reader.read("request_pixels", integer(1..=1_000_000_000_000, 250_000_000)),
            decode_bytes: reader.read("decode_bytes", reader::size(1 << 20..=1 << 36, "640MiB")),
            queue_items: reader.read("queue_items", integer(1..=10_000_000, 1024)),
            queue_bytes: reader.read("queue_bytes", reader::size(1 << 20..=1 << 40, "1GiB")),
        }
    }
}

impl Engine {
    fn read(reader: &mut Reader<'_>) -> Self {
        let directories = |value: &Value| Ok(texts(value)?.into_iter().map(PathBuf::from).collect());
        Self {
            provider: reader.read("provider", choice(&Provider::NAMES)),
            fallback: reader.read("fallback", boolean),
            device_id: reader.read("device_id", integer(0..=255, 0)),
            library: reader.read("library", optional_path),
            library_directories: reader.read("library_directories", directories),
            threads: reader.read("threads", integer(0..=1024, 4)),
            workers: reader.read("workers", integer(0..=1024, 4)),
            spin: reader.read("spin", boolean),
            max_batch: reader.read("max_batch", integer(0..=4096, 32)),
            max_delay: reader.read("max_delay", reader::duration(Duration::ZERO..=Duration::from_secs(10), "2ms")),
            warm_up: reader.read("warm_up", boolean),
            preprocess_threads: reader.read("preprocess_threads", integer(0..=1024, 4)),
            io_binding: reader.read("io_binding", choice(&IoBinding::NAMES)),
            cuda: reader.section("cuda", |reader| Cuda {
                graphs: reader.read("graphs", boolean),
                tf32: reader.read("tf32", boolean),
                memory_limit: reader.read("memory_limit", reader::size(0..=1 << 50, "8GiB")),
            }),
            tensorrt: reader.section("tensorrt", |reader| TensorRt {
                fp16: reader.read("fp16", boolean),
                graphs: reader.read("graphs", boolean),
                engine_cache: reader.read("engine_cache", optional_path),
            }),
        }
    }
}

impl Repository {
    fn read(reader: &mut Reader<'_>) -> Self {
        let on_error = [("fail", OnError::Fail), ("skip", OnError::Skip)];
        Self {
            directory: reader.read("directory", |value| name(value).map(PathBuf::from)),
            on_error: reader.read("on_error", choice(&on_error)),
        }
    }
}

fn read_map(value: &Value) -> Parsed<BTreeMap<String, String>> {
    let expected = || {
        let range = "a table of folders by the URIs gs://BUCKET/PREFIX or s3://BUCKET/PREFIX that they stand in for";
        Expected(range.to_owned(), "{ \"gs://my-bucket/models\" = \"/models\" }".to_owned())
    };
    let map = reader::text_by_name(value).map_err(|_| expected())?;
    let fits = |(uri, folder): (&String, &String)| {
        matches!(ArtifactUri::parse(uri), Ok(ArtifactUri::Objects(_))) && !folder.is_empty()
    };
    if map.iter().all(fits) { Ok(map) } else { Err(expected()) }
}

impl Log {
    fn read(reader: &mut Reader<'_>) -> Self {
        Self { level: reader.read("level", log_level::read), format: reader.read("format", choice(&LogFormat::NAMES)) }
    }
}
