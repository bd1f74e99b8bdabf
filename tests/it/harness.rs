//! The built binary on a free port, with chosen models and settings, and the requests to ask it.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// The repository's own folder.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A command that runs the binary, without the variables of whoever runs the tests.
pub fn tessera() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tessera"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AIP_") || name.starts_with("TESSERA__")) {
        command.env_remove(name);
    }
    command
}

/// How a server is to be started.
pub struct Builder {
    repository: tempfile::TempDir,
    command: Command,
}

impl Builder {
    /// With these models, each a folder below `models/` or `tests/models/`.
    pub fn with_models(models: &[&str]) -> Self {
        let repository = tempfile::tempdir().unwrap();
        for model in models {
            let places = [root().join("models").join(model), root().join("tests/models").join(model)];
            let place = places.iter().find(|place| place.is_dir()).unwrap_or_else(|| panic!("no model {model}"));
            link(place, &repository.path().join(model));
        }
        let mut command = tessera();
        // Not the repository's own folder: its config.toml is not part of the test.
        command.current_dir(repository.path());
        command.args(["serve", "--host", "127.0.0.1", "--log-format", "json"]);
        command.arg("--models").arg(repository.path());
        Self { repository, command }
            .env("TESSERA__SERVER__ADMIN_PORT", "off")
            .env("TESSERA__SERVER__DRAIN_DELAY", "0s")
            .setting("log.level", "info")
            .setting("server.port", "0")
            .setting("grpc.port", "off")
    }

    /// With a model more, whose versions are those of other models, from 1 on.
    pub fn with_versions(self, model: &str, versions: &[&str]) -> Self {
        let folder = self.repository.path().join(model);
        std::fs::create_dir(&folder).unwrap();
        for (index, version) in versions.iter().enumerate() {
            link(&root().join("tests/models").join(version).join("1"), &folder.join((index + 1).to_string()));
        }
        self
    }

    /// With a configuration file.
    pub fn with_config(self, text: &str) -> Self {
        std::fs::write(self.repository.path().join("config.toml"), text).unwrap();
        self
    }

    /// With a setting, such as `limits.body`.
    pub fn setting(self, key: &str, value: &str) -> Self {
        let variable = format!("TESSERA__{}", key.to_uppercase().replace('.', "__"));
        self.env(&variable, value)
    }

    /// With a variable of the environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// With no more than so many open files.
    pub fn open_files(mut self, limit: usize) -> Self {
        let mut limited = Command::new("sh");
        limited.arg("-c").arg(format!("ulimit -n {limit} && exec \"$0\" \"$@\""));
        limited.arg(self.command.get_program()).args(self.command.get_args());
        limited.current_dir(self.repository.path());
        for (name, value) in self.command.get_envs() {
            match value {
                Some(value) => limited.env(name, value),
                None => limited.env_remove(name),
            };
        }
        self.command = limited;
        self
    }

    /// Starts it and waits until its port is open, which is before the models are loaded.
    pub fn spawn(mut self) -> Server {
        let mut child = self.command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (found, address) = std::sync::mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let lines = log.clone();
        let reader = std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if let Some(address) = listening(&line, "api") {
                    let _ = found.send(address);
                }
                lines.lock().unwrap().push(line);
            }
        });
        let reader = Some(reader);
        let address = address.recv_timeout(Duration::from_secs(20));
        let address = address.unwrap_or_else(|_| panic!("the server did not listen: {:#?}", log.lock().unwrap()));
        Server { child, address, log, reader, _repository: self.repository }
    }

    /// Starts it and waits until it is ready.
    pub fn start(self) -> Server {
        let server = self.spawn();
        server.wait_until_ready();
        server
    }
}

/// The address in the line that says that a listener is there.
fn listening(line: &str, listener: &str) -> Option<SocketAddr> {
    let line: Value = serde_json::from_str(line).ok()?;
    let is_it = line["message"] == "listening" && line["listener"] == listener;
    is_it.then(|| line["address"].as_str()?.parse().ok())?
}

#[cfg(unix)]
fn link(from: &Path, to: &Path) {
    std::os::unix::fs::symlink(from, to).unwrap();
}

/// A running server; it is killed when dropped.
pub struct Server {
    child: Child,
    address: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
    reader: Option<std::thread::JoinHandle<()>>,
    _repository: tempfile::TempDir,
}

impl Server {
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where gRPC listens, which it says right after the API does.
    pub fn grpc_address(&self) -> SocketAddr {
        listening(&self.logged(r#""listener":"grpc""#), "grpc").expect("the line has an address")
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged and is read already; after [`Server::wait`] all of it.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// The first line with these words, which comes soon: lines are written by a thread of their own.
    pub fn logged(&self, words: &str) -> String {
        let begin = Instant::now();
        loop {
            if let Some(line) = self.log().into_iter().find(|line| line.contains(words)) {
                return line;
            }
            assert!(begin.elapsed() < Duration::from_secs(10), "{words:?} isn't in the log: {:#?}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Its memory that is in use, in MiB.
    #[cfg(target_os = "linux")]
    pub fn resident(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() / 1024
    }

    pub fn wait_until_ready(&self) {
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(60) {
            if let Ok(response) = raw_get(self.address, "/readyz")
                && response.starts_with("HTTP/1.1 200")
            {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the server did not become ready: {:#?}", self.log());
    }

    /// Sends a signal by name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status().unwrap();
        assert!(status.success());
    }

    /// Waits for the end of the process.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                if let Some(reader) = self.reader.take() {
                    reader.join().unwrap();
                }
                return status;
            }
            assert!(begin.elapsed() < limit, "the server did not end: {:#?}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A GET without any client library.
pub fn raw_get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    raw(address, format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes())
}

/// Sends bytes as they are and reads until the server closes.
pub fn raw(address: SocketAddr, request: &[u8]) -> std::io::Result<String> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(request)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// A client that keeps connections, as Google's do.
pub fn client() -> reqwest::Client {
    tessera::cryptography::install();
    reqwest::Client::builder().timeout(Duration::from_secs(60)).build().unwrap()
}

/// Posts JSON and gives the status and the JSON of the answer.
pub async fn post(server: &Server, path: &str, body: &Value) -> (u16, Value) {
    let response = client().post(server.url(path)).json(body).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

/// An instance with the bytes of a file.
pub fn instance(bytes: &[u8]) -> Value {
    json!({"b64": STANDARD.encode(bytes)})
}

/// A file below `examples/`.
pub fn example(name: &str) -> Vec<u8> {
    std::fs::read(root().join("examples").join(name)).unwrap()
}

/// A file of the golden data: `images` or `errors`.
pub fn golden(folder: &str, name: &str) -> Vec<u8> {
    std::fs::read(root().join("tests/golden").join(folder).join(name)).unwrap()
}

/// A PNG of one colour.
pub fn colour(rgb: [u8; 3]) -> Vec<u8> {
    let picture = image::RgbImage::from_pixel(40, 30, image::Rgb(rgb));
    let mut png = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut png, image::ImageFormat::Png).unwrap();
    png.into_inner()
}
