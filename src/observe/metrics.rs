//! Every metric in one place: names, help, labels and buckets.
//!
//! Labels are bounded by configuration: endpoints and deployed models are those that are served here. What a client
//! writes into a URL is never a label; requests that name something else count under [`Metrics::unknown`].

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use prometheus::{
    Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder, core::Collector,
};

use super::deployed_model::ShadowSeries;
use super::process::ProcessMetrics;
use super::{DeployedModelMetrics, ModelMetrics, ShadowOutcome, Stage};

/// Bounds of the histograms of time, in seconds: from a stage of microseconds to a request of a minute.
const SECONDS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 30.0, 60.0,
];

const ITEMS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// The image formats that are counted by name.
const FORMATS: [&str; 7] = ["jpeg", "png", "webp", "gif", "bmp", "tiff", "other"];

/// The canonical codes of `google.rpc.Code` that a failed request can have.
const CODES: [&str; 16] = [
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
];

/// The kinds of a prediction's latency.
const LATENCIES: [&str; 3] = ["total", "overhead", "model"];

/// Whose latency a shadow is compared by.
const SHADOWED: [&str; 2] = ["primary", "shadow"];

/// The classes of HTTP status.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Where requests count whose endpoint is not served here.
const UNKNOWN: &str = "unknown";

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    stages: HistogramVec,
    latency: HistogramVec,
    predictions: IntCounterVec,
    shadow_requests: IntCounterVec,
    shadow_latency: HistogramVec,
    batch_size: HistogramVec,
    padding: IntCounterVec,
    queue_items: IntGaugeVec,
    queue_bytes: IntGaugeVec,
    expected_wait: GaugeVec,
    refused: IntCounterVec,
    cancelled: IntCounterVec,
    unknown: [IntCounter; CLASSES.len()],
    errors: [IntCounter; CODES.len()],
    images: [IntCounter; FORMATS.len()],
    image_bytes: IntCounter,
    responses: [IntCounter; CLASSES.len()],
    received_bytes: IntCounter,
    sent_bytes: IntCounter,
    panics: IntCounter,
    model_load: GaugeVec,
    connections: IntGaugeVec,
    ready: IntGauge,
    build: IntGaugeVec,
    process: Mutex<ProcessMetrics>,
}

impl Metrics {
    /// A fresh set, all at zero.
    ///
    /// # Errors
    /// When two metrics share a name or a name is not valid, which a test excludes.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let make = Maker { registry: &registry };
        let deployed_model = ["endpoint", "deployed_model"];
        let model = ["model", "version"];
        let requests = make.counters(
            "tessera_requests_total",
            "Requests for predictions that were answered",
            &[&deployed_model[..], &["code_class"]].concat(),
        )?;
        let stages = make.histograms(
            "tessera_request_duration_seconds",
            "Time of a request by stage",
            &[&deployed_model[..], &["stage"]].concat(),
            SECONDS,
        )?;
        let latency = make.histograms(
            "tessera_prediction_latency_seconds",
            "Time of a successful prediction: total, of it the model's, and the rest as overhead",
            &[&deployed_model[..], &["latency_type"]].concat(),
            SECONDS,
        )?;
        let predictions =
            make.counters("tessera_predictions_total", "Instances that were predicted", &deployed_model)?;
        let shadow_requests = make.counters(
            "tessera_shadow_requests_total",
            "Copies of requests for a shadow, by what came of them",
            &[&deployed_model[..], &["outcome"]].concat(),
        )?;
        let shadow_latency = make.histograms(
            "tessera_shadow_latency_seconds",
            "Time of a request that was copied: of the model that answered, and of the shadow",
            &[&deployed_model[..], &["of"]].concat(),
            SECONDS,
        )?;
        let batch_size =
            make.histograms("tessera_batch_size", "Instances that the engine ran together", &model, ITEMS)?;
        let padding =
            make.counters("tessera_batch_padding_total", "Empty instances that filled fixed batches", &model)?;
        let queue_items = make.gauges("tessera_queue_length", "Instances that wait for the engine", &model)?;
        let queue_bytes = make.gauges("tessera_queue_bytes", "Memory of the instances that wait", &model)?;
        let expected_wait = make.float_gauges(
            "tessera_queue_expected_wait_seconds",
            "How long an instance that comes now is expected to wait for the engine",
            &model,
        )?;
        let refused = make.counters("tessera_queue_refused_total", "Requests that the queue turned away", &model)?;
        let cancelled = make.counters(
            "tessera_queue_cancelled_total",
            "Instances that left the queue because nobody waited for them any more, or too late",
            &model,
        )?;
        let errors = make.counters("tessera_errors_total", "Failed requests by canonical code", &["code"])?;
        let images = make.counters("tessera_images_total", "Images that were decoded, by format", &["format"])?;
        let responses = make.counters("tessera_http_responses_total", "HTTP answers of any route", &["code_class"])?;
        let image_bytes =
            make.counter("tessera_image_bytes_total", "Compressed size of the images that were decoded")?;
        let received_bytes = make.counter("tessera_http_received_bytes_total", "Bytes of the requests' bodies")?;
        let sent_bytes = make.counter("tessera_http_sent_bytes_total", "Bytes of the answers' bodies")?;
        let panics = make.counter("tessera_panics_total", "Requests that ended in a panic")?;
        let model_load =
            make.float_gauges("tessera_model_load_seconds", "Time to load and warm a model", &["model", "version"])?;
        let connections = make.gauges("tessera_connections", "Open connections", &["listener"])?;
        let build = make.gauges("tessera_build_info", "Always 1", &["version"])?;
        let ready = IntGauge::new("tessera_ready", "1 when predictions can be answered")?;
        make.register(&ready)?;
        let process = Mutex::new(ProcessMetrics::new(&registry)?);

        Ok(Self {
            unknown: CLASSES.map(|class| requests.with_label_values(&[UNKNOWN, UNKNOWN, class])),
            errors: CODES.map(|code| errors.with_label_values(&[code])),
            images: FORMATS.map(|format| images.with_label_values(&[format])),
            responses: CLASSES.map(|class| responses.with_label_values(&[class])),
            registry,
            requests,
            stages,
            latency,
            predictions,
            shadow_requests,
            shadow_latency,
            batch_size,
            padding,
            queue_items,
            queue_bytes,
            expected_wait,
            refused,
            cancelled,
            image_bytes,
            received_bytes,
            sent_bytes,
            panics,
            model_load,
            connections,
            ready,
            build,
            process,
        })
    }

    /// The series of `deployed_model` at `endpoint`, both as configured. Look it up once and keep it.
    pub fn deployed_model(&self, endpoint: &str, deployed_model: &str) -> DeployedModelMetrics {
        let model = [endpoint, deployed_model];
        let latency = |kind| self.latency.with_label_values(&[endpoint, deployed_model, kind]);
        DeployedModelMetrics {
            requests: CLASSES.map(|class| self.requests.with_label_values(&[endpoint, deployed_model, class])),
            stages: Stage::ALL.map(|stage| self.stages.with_label_values(&[endpoint, deployed_model, stage.name()])),
            latency_total: latency(LATENCIES[0]),
            latency_overhead: latency(LATENCIES[1]),
            latency_model: latency(LATENCIES[2]),
            predictions: self.predictions.with_label_values(&model),
            shadow: None,
        }
    }

    /// As [`Metrics::deployed_model`], for one that is a shadow.
    pub fn shadow(&self, endpoint: &str, deployed_model: &str) -> DeployedModelMetrics {
        let labels = |last: &'static str| [endpoint, deployed_model, last];
        let series = ShadowSeries {
            requests: ShadowOutcome::NAMES.map(|outcome| self.shadow_requests.with_label_values(&labels(outcome))),
            latency: SHADOWED.map(|of| self.shadow_latency.with_label_values(&labels(of))),
        };
        DeployedModelMetrics { shadow: Some(series), ..self.deployed_model(endpoint, deployed_model) }
    }

    /// Forgets the series of a deployed model that is no more. Requests that it still answers are not counted.
    pub fn remove_deployed_model(&self, endpoint: &str, deployed_model: &str) {
        let labels = |last: &'static str| [endpoint, deployed_model, last];
        // What has no series can't be removed, which is no failure.
        for class in CLASSES {
            let _ = self.requests.remove_label_values(&labels(class));
        }
        for stage in Stage::ALL {
            let _ = self.stages.remove_label_values(&labels(stage.name()));
        }
        for kind in LATENCIES {
            let _ = self.latency.remove_label_values(&labels(kind));
        }
        for outcome in ShadowOutcome::NAMES {
            let _ = self.shadow_requests.remove_label_values(&labels(outcome));
        }
        for of in SHADOWED {
            let _ = self.shadow_latency.remove_label_values(&labels(of));
        }
        let _ = self.predictions.remove_label_values(&[endpoint, deployed_model]);
    }

    /// Forgets the series of a model that is not in memory any more.
    pub fn remove_model(&self, model: &str, version: &str) {
        let model = [model, version];
        let _ = self.batch_size.remove_label_values(&model);
        let _ = self.queue_items.remove_label_values(&model);
        let _ = self.queue_bytes.remove_label_values(&model);
        let _ = self.expected_wait.remove_label_values(&model);
        let _ = self.model_load.remove_label_values(&model);
        for counters in [&self.padding, &self.refused, &self.cancelled] {
            let _ = counters.remove_label_values(&model);
        }
    }

    /// The series of the queue and the engine of `model`. Look it up once and keep it.
    pub fn model(&self, model: &str, version: &str) -> ModelMetrics {
        let model = [model, version];
        ModelMetrics {
            batch_size: self.batch_size.with_label_values(&model),
            padding: self.padding.with_label_values(&model),
            queue_items: self.queue_items.with_label_values(&model),
            queue_bytes: self.queue_bytes.with_label_values(&model),
            expected_wait: self.expected_wait.with_label_values(&model),
            refused: self.refused.with_label_values(&model),
            cancelled: self.cancelled.with_label_values(&model),
        }
    }

    /// A request named an endpoint that is not served here, and was answered with `status`.
    pub fn answered_unknown(&self, status: u16) {
        self.unknown[class_of(status)].inc();
    }

    /// A request failed with this canonical code, as in `INVALID_ARGUMENT`. Other texts count as `UNKNOWN`.
    pub fn error(&self, code: &str) {
        self.errors[CODES.iter().position(|known| *known == code).unwrap_or(1)].inc();
    }

    /// An image of `bytes` compressed bytes was decoded. `format` as in `jpeg`, in any case; those not known count as `other`.
    pub fn image(&self, format: &str, bytes: usize) {
        let index = FORMATS.iter().position(|known| known.eq_ignore_ascii_case(format)).unwrap_or(FORMATS.len() - 1);
        self.images[index].inc();
        self.image_bytes.inc_by(bytes as u64);
    }

    /// An answer of any route was sent whole.
    pub fn response(&self, status: u16, received: u64, sent: u64) {
        self.responses[class_of(status)].inc();
        self.received_bytes.inc_by(received);
        self.sent_bytes.inc_by(sent);
    }

    /// A request ended in a panic.
    pub fn panicked(&self) {
        self.panics.inc();
    }

    /// A model was loaded and warmed in `duration`.
    pub fn model_loaded(&self, model: &str, version: &str, duration: Duration) {
        self.model_load.with_label_values(&[model, version]).set(duration.as_secs_f64());
    }

    /// The number of open connections of a listener, as in `api`; the server keeps it.
    pub fn connections(&self, listener: &str) -> IntGauge {
        self.connections.with_label_values(&[listener])
    }

    /// Whether predictions can be answered.
    pub fn set_ready(&self, ready: bool) {
        self.ready.set(i64::from(ready));
    }

    /// What this process is made of.
    pub fn set_build(&self, version: &str) {
        self.build.reset();
        self.build.with_label_values(&[version]).set(1);
    }

    /// Everything in Prometheus' text format, version 0.0.4.
    pub fn render(&self) -> String {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).refresh();
        let mut text = Vec::with_capacity(32 * 1024);
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "cannot render metrics");
        }
        String::from_utf8(text).unwrap_or_default()
    }
}

fn class_of(status: u16) -> usize {
    usize::from(status / 100).clamp(1, CLASSES.len()) - 1
}

/// Makes metrics and registers them.
struct Maker<'a> {
    registry: &'a Registry,
}

impl Maker<'_> {
    fn register<C: Collector + Clone + 'static>(&self, metric: &C) -> Result<(), prometheus::Error> {
        self.registry.register(Box::new(metric.clone()))
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        let metric = IntCounter::new(name, help)?;
        self.register(&metric)?;
        Ok(metric)
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
        let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
        self.register(&metric)?;
        Ok(metric)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
        let metric = IntGaugeVec::new(Opts::new(name, help), labels)?;
        self.register(&metric)?;
        Ok(metric)
    }

    fn float_gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, prometheus::Error> {
        let metric = GaugeVec::new(Opts::new(name, help), labels)?;
        self.register(&metric)?;
        Ok(metric)
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> Result<HistogramVec, prometheus::Error> {
        let metric = HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels)?;
        self.register(&metric)?;
        Ok(metric)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_shows_in_every_series() {
        let metrics = Metrics::new().unwrap();
        let model = metrics.deployed_model("imagenet", "42");
        model.answered(200);
        model.answered(503);
        model.stage(Stage::Decode, Duration::from_micros(700));
        model.finished(Duration::from_millis(12), Duration::from_millis(9), 3);
        let queue = metrics.model("vit", "3");
        queue.batch(3, 1);
        queue.queue(7, 4096);
        queue.expected_wait(Duration::from_millis(250));
        metrics.image("jpeg", 1000);
        metrics.image("heic", 10);
        metrics.error("INVALID_ARGUMENT");
        metrics.response(200, 1000, 50);
        metrics.set_build("0.1.0");
        metrics.set_ready(true);
        metrics.model_loaded("imagenet", "1", Duration::from_millis(1500));
        metrics.connections("api").set(2);
        let text = metrics.render();
        for line in [
            r#"tessera_requests_total{code_class="2xx",deployed_model="42",endpoint="imagenet"} 1"#,
            r#"tessera_requests_total{code_class="5xx",deployed_model="42",endpoint="imagenet"} 1"#,
            r#"tessera_request_duration_seconds_bucket{deployed_model="42",endpoint="imagenet",stage="decode",le="0.0005"} 0"#,
            r#"tessera_request_duration_seconds_bucket{deployed_model="42",endpoint="imagenet",stage="decode",le="0.001"} 1"#,
            r#"tessera_request_duration_seconds_sum{deployed_model="42",endpoint="imagenet",stage="total"} 0.012"#,
            r#"tessera_prediction_latency_seconds_sum{deployed_model="42",endpoint="imagenet",latency_type="model"} 0.009"#,
            r#"tessera_prediction_latency_seconds_sum{deployed_model="42",endpoint="imagenet",latency_type="overhead"} 0.003"#,
            r#"tessera_predictions_total{deployed_model="42",endpoint="imagenet"} 3"#,
            r#"tessera_batch_size_sum{model="vit",version="3"} 3"#,
            r#"tessera_batch_padding_total{model="vit",version="3"} 1"#,
            r#"tessera_queue_length{model="vit",version="3"} 7"#,
            r#"tessera_queue_expected_wait_seconds{model="vit",version="3"} 0.25"#,
            r#"tessera_images_total{format="jpeg"} 1"#,
            r#"tessera_images_total{format="other"} 1"#,
            "tessera_image_bytes_total 1010",
            r#"tessera_errors_total{code="INVALID_ARGUMENT"} 1"#,
            r#"tessera_build_info{version="0.1.0"} 1"#,
            "tessera_ready 1",
            r#"tessera_model_load_seconds{model="imagenet",version="1"} 1.5"#,
            r#"tessera_connections{listener="api"} 2"#,
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line}
not in
{text}"
            );
        }
    }

    #[test]
    fn what_clients_write_is_no_label() {
        let metrics = Metrics::new().unwrap();
        metrics.answered_unknown(404);
        metrics.error("whatever a caller passes");
        let text = metrics.render();
        assert!(
            text.contains(r#"tessera_requests_total{code_class="4xx",deployed_model="unknown",endpoint="unknown"} 1"#)
        );
        assert!(text.contains(r#"tessera_errors_total{code="UNKNOWN"} 1"#));
        assert!(!text.contains("whatever"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_process_is_measured() {
        let metrics = Metrics::new().unwrap();
        let value = |name: &str| -> f64 {
            let text = metrics.render();
            let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
            line.rsplit(' ').next().unwrap().parse().unwrap()
        };
        assert!(value("process_resident_memory_bytes") > 1e6);
        assert!(value("process_open_fds") >= 3.0);
        assert!(value("process_threads") >= 1.0);
        let before = value("process_cpu_seconds_total");
        let start = std::time::Instant::now();
        while start.elapsed() < Duration::from_millis(300) {
            std::hint::black_box(start);
        }
        assert!(value("process_cpu_seconds_total") >= before + 0.05);
    }
}
