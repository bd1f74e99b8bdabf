//! The longer texts of `tessera --help` and `--version`.

use std::sync::LazyLock;

use crate::engine::onnx::Provider;

const JPEG: &str = if cfg!(feature = "exact-jpeg") {
    "exact-jpeg: bit-equal to PIL and TensorFlow"
} else {
    "not exact: built without the feature exact-jpeg"
};

/// What `tessera --version` prints after the name.
pub(super) fn version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(|| {
        let providers = Provider::NAMES.map(|(name, _)| name).join(", ");
        // Set by whoever builds from a checkout: the sources alone can't tell.
        let revision = option_env!("TESSERA_REVISION").unwrap_or("unknown");
        format!(
            "{}\nrevision   {revision}\njpeg       {JPEG}\nproviders  {providers} (those of them that the loaded ONNX \
             Runtime has)",
            env!("CARGO_PKG_VERSION")
        )
    });
    &VERSION
}

pub(super) const OVERVIEW: &str = "\
Examples:
  tessera serve            serve the models in ./models on port 8080
  tessera predict cat.jpg  a label without a server
  tessera bench http://localhost:8080 --image cat.jpg
                           how fast it answers
  tessera help serve       options, settings and routes of the server

Exit codes:
  0  success
  1  failure: a wrong configuration, a model that can't be loaded, an image
     that can't be read
  2  a command line that is not understood";

pub(super) const SERVE: &str = "\
Examples:
  tessera serve
  tessera serve --models /srv/models --port 9000 --admin-port off
  TESSERA__ENGINE__PROVIDER=cuda tessera serve --config production.toml

Settings, each layer over those before it (an empty variable is unset):
  1. defaults   `tessera check --print-config` prints what holds
  2. file       --config FILE, else ./config.toml if it exists
  3. variables  TESSERA__SECTION__KEY such as TESSERA__LIMITS__BODY=10MB;
                lists and tables in TOML's syntax
  4. Vertex AI  AIP_HTTP_PORT, AIP_HEALTH_ROUTE, AIP_PREDICT_ROUTE,
                AIP_STORAGE_URI, AIP_STORAGE_DIR. With AIP_HTTP_PORT the
                admin port is closed unless it is asked for
  5. flags

Routes:
  POST /v1/endpoints/ID:predict
  POST /v1/projects/P/locations/L/endpoints/ID:predict
         {\"instances\":[{\"b64\":\"...\"}],\"parameters\":{\"top_k\":5}}
         answered as Vertex AI's API does, with the model's fields
  POST /predict, $AIP_PREDICT_ROUTE
  POST /v1/endpoints/E/deployedModels/D:predict
         the same body, answered as a custom container does:
         {\"predictions\":[...]} alone
  GET  /, /v1/endpoints            what is served here
  GET  /health, $AIP_HEALTH_ROUTE  503 until every model is loaded and warm
  GET  /readyz, /livez             the same; 200 while the process lives
  GET  /metrics                    for Prometheus; also on the admin port

On SIGTERM or SIGINT it turns unhealthy, goes on answering for
server.drain_delay, finishes what it accepted, and exits with 0. A model that
can't be loaded ends the start with 1, unless repository.on_error is \"skip\".";

pub(super) const PREDICT: &str = "\
Examples:
  tessera predict cat.jpg
  tessera predict --model fashion-vit --top-k 3 *.png
  curl -s https://example.org/cat.jpg | tessera predict - --json

The answer is the server's: same model, same preprocessing, same numbers. On a
terminal it is a table. With --json each image is one line:
  {\"image\":\"cat.jpg\",\"label\":\"Egyptian cat\",\"confidence\":0.79}";

pub(super) const PREPROCESS: &str = "\
Examples:
  tessera preprocess cat.jpg --output cat.npy --model imagenet
  tessera preprocess cat.jpg --output cat.npy --preset tf
  tessera preprocess cat.jpg --output cat.npy \\
      --preprocessor-config vit/preprocessor_config.json
  python -c 'import numpy; print(numpy.load(\"cat.npy\").shape)'

For comparing what the model sees here with what it saw in training. At most
one of --model, --preset and --preprocessor-config; without any of them, as the
model of the default endpoint does.";

pub(super) const CHECK: &str = "\
Examples:
  tessera check
  tessera check --config production.toml --models /srv/models
  tessera check --print-config

Reads every layer of the settings, loads every model as `tessera serve` would,
and reports everything that is wrong at once, one line each. Exit code 0:
`tessera serve` would start. 1: it would not.";

pub(super) const MODELS: &str = "\
Examples:
  tessera models
  tessera models --models /srv/models --json

Name, version, task, input, labels, size and provider of each model, as a table
or as one JSON object a line.";

pub(super) const MEASURE: &str = "\
Examples:
  tessera measure imagenet
  tessera measure vit --batch 1,2,4,8,16,32,64 --duration 10s
  TESSERA__ENGINE__PROVIDER=cuda tessera measure vit --json

What the engine alone can do with the settings of [engine]: no HTTP, no
decoding, noise for inputs. items/s is with as many batches in flight as are
computed side by side, alone ms is one batch at a time. On a CPU batches of
pictures gain nothing; on a GPU this shows which engine.max_batch to set.";

pub(super) const BENCH: &str = "\
Examples:
  tessera bench http://localhost:8080 --image cat.jpg
  tessera bench http://localhost:8080 --image cat.jpg --rate 50
  tessera bench http://localhost:8080/v1/endpoints/imagenet:predict \\
      --image cat.jpg --image dog.jpg --connections 32 --html report.html
  tessera bench http://localhost:8080 --body rows.json --json | jq .latency_ms
  tessera bench http://localhost:8080 --image cat.jpg --profile vit-blog

Two ways of asking:
  closed loop  Each connection sends its next request when it has its answer:
               how much the server can do. With --users, after a pause.
  open loop    With --rate, requests are due at fixed times whether or not the
               server keeps up, and the latency counts from the time a request
               was due: what users see at that rate.

Latencies are those of successful requests, from the first byte sent (open
loop: from when it was due) to the last byte received. Requests of the warm-up
are sent and not counted. Put the load on from the machine where the users
are; on the server's own machine the two share the cores.

Exit code 1: no request succeeded.";

pub(super) const COMPLETIONS: &str = "\
Examples:
  source <(tessera completions bash)
  tessera completions zsh > ~/.zfunc/_tessera
  tessera completions fish > ~/.config/fish/completions/tessera.fish";
