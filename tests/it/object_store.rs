//! An object store on a socket: the part of Google Cloud Storage's JSON API that a download needs, as fast or as slow as a
//! test wants it. <https://cloud.google.com/storage/docs/json_api/v1>

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crc_fast::CrcAlgorithm;
use futures_util::{StreamExt, stream};
use http::header::{CONTENT_RANGE, RANGE};
use http::{HeaderMap, StatusCode};
use serde_json::json;

use crate::harness::root;

/// What is sent at a time.
const PIECE: usize = 64 << 10;
/// Between two pieces, while it is slow: 256 KiB a second.
const PAUSE: Duration = Duration::from_millis(250);
/// Of the file that takes long: a minute and more.
const LARGE: usize = 16 << 20;

/// One bucket, `models-bucket`. It serves as long as the test's runtime does.
pub struct ObjectStore {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    objects: BTreeMap<String, Vec<u8>>,
    is_slow: AtomicBool,
    ranges: Mutex<Vec<String>>,
}

impl ObjectStore {
    /// Slow at first, with a folder for each name that holds a model and a large file.
    pub async fn start(folders: &[&str]) -> Self {
        let model = std::fs::read(root().join("tests/models/linear/1/model.onnx")).unwrap();
        let mut objects = BTreeMap::new();
        for folder in folders {
            objects.insert(format!("{folder}/model.onnx"), model.clone());
            objects.insert(format!("{folder}/large.bin"), vec![7; LARGE]);
        }
        let shared = Arc::new(Shared { objects, is_slow: AtomicBool::new(true), ranges: Mutex::default() });
        let routes = Router::new()
            .route("/storage/v1/b/models-bucket/o", get(list))
            .route("/storage/v1/b/models-bucket/o/{name}", get(content))
            .with_state(shared.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(axum::serve(listener, routes).into_future());
        Self { address, shared }
    }

    /// `STORAGE_EMULATOR_HOST`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// From now on, as fast as it can.
    pub fn hurry(&self) {
        self.shared.is_slow.store(false, Ordering::Relaxed);
    }

    /// The ranges that were asked for.
    pub fn ranges(&self) -> Vec<String> {
        self.shared.ranges.lock().unwrap().clone()
    }
}

async fn list(State(shared): State<Arc<Shared>>, Query(query): Query<BTreeMap<String, String>>) -> Response {
    let below = shared.objects.iter().filter(|(name, _)| name.starts_with(&query["prefix"]));
    let items = below.map(|(name, bytes)| {
        let crc = u32::try_from(crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes)).unwrap();
        let crc = STANDARD.encode(crc.to_be_bytes());
        json!({"name": name, "size": bytes.len().to_string(), "generation": "1", "crc32c": crc})
    });
    axum::Json(json!({"items": items.collect::<Vec<_>>()})).into_response()
}

async fn content(State(shared): State<Arc<Shared>>, Path(name): Path<String>, headers: HeaderMap) -> Response {
    let Some(bytes) = shared.objects.get(&name).cloned() else { return StatusCode::NOT_FOUND.into_response() };
    let range = headers.get(RANGE).map(|range| range.to_str().unwrap().to_owned());
    let begin = range
        .as_deref()
        .map_or(0, |range| range.trim_start_matches("bytes=").trim_end_matches('-').parse::<usize>().unwrap());
    let status = if range.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    let content_range = format!("bytes {begin}-{}/{}", bytes.len() - 1, bytes.len());
    shared.ranges.lock().unwrap().extend(range);
    let pieces: Vec<Vec<u8>> = bytes[begin..].chunks(PIECE).map(<[u8]>::to_vec).collect();
    let paced = stream::iter(pieces).then(move |piece| {
        let is_slow = shared.is_slow.load(Ordering::Relaxed);
        async move {
            if is_slow {
                tokio::time::sleep(PAUSE).await;
            }
            Ok::<_, std::io::Error>(piece)
        }
    });
    (status, [(CONTENT_RANGE, content_range)], Body::from_stream(paced)).into_response()
}
