//! What can be asked at each route.

use super::super::routes::VERBS;
use super::management;
use super::schemas::Body;

/// Groups of operations.
pub const TAGS: [(&str, &str); 6] = [
    ("vertex", "Vertex AI's prediction API. Errors are google.rpc.Status."),
    ("container", "What Vertex AI asks of a container."),
    ("models", "KServe's first protocol and TensorFlow Serving's REST API."),
    ("open-inference", "KServe's second protocol, with Triton's extensions."),
    ("management", "Vertex AI's models, endpoints and operations."),
    ("server", "The server itself."),
];

/// One method of one path.
#[derive(Debug, Clone)]
pub struct Operation {
    /// In lower case.
    pub method: &'static str,
    /// One of [`TAGS`].
    pub tag: &'static str,
    /// A line.
    pub summary: String,
    /// Names in the query.
    pub query: &'static [&'static str],
    /// What is sent.
    pub request: Option<Body>,
    /// What is given back.
    pub answer: Body,
    /// What is given back when it fails.
    pub error: Option<Body>,
}

impl Operation {
    /// With names in the query.
    pub fn taking(self, query: &'static [&'static str]) -> Self {
        Self { query, ..self }
    }
}

/// A question without a body.
pub fn get(tag: &'static str, summary: &str, answer: Body) -> Operation {
    let error = match tag {
        "models" | "open-inference" => Some(Body::Named("TextError")),
        "server" => None,
        _ => Some(Body::Named("Error")),
    };
    Operation { method: "get", tag, summary: summary.to_owned(), query: &[], request: None, answer, error }
}

/// A question with a body.
pub fn post(tag: &'static str, summary: &str, request: Body, answer: Body) -> Operation {
    Operation { method: "post", request: Some(request), ..get(tag, summary, answer) }
}

/// The verbs of an endpoint, in the table's order.
fn verbs(path: &str) -> Vec<(String, Operation)> {
    let operation = |name: &str| match name {
        "predict" => post(
            "vertex",
            "Predict: instances in, predictions out.",
            Body::Message("PredictRequest"),
            Body::Message("PredictResponse"),
        ),
        "rawPredict" => post("vertex", "Predict with a body as the model takes it.", Body::Bytes, Body::Bytes),
        "streamRawPredict" => post("vertex", "The same, with the answer as it is made.", Body::Bytes, Body::Bytes),
        "directPredict" => post(
            "vertex",
            "Predict with tensors.",
            Body::Message("DirectPredictRequest"),
            Body::Message("DirectPredictResponse"),
        ),
        "directRawPredict" => post(
            "vertex",
            "Call one of the server's gRPC methods by its name.",
            Body::Message("DirectRawPredictRequest"),
            Body::Message("DirectRawPredictResponse"),
        ),
        "serverStreamingPredict" => post(
            "vertex",
            "Predict with tensors, answered by a list as it is made.",
            Body::Message("StreamingPredictRequest"),
            Body::Json,
        ),
        "explain" => post(
            "vertex",
            "Predict, and attribute the predictions to the features.",
            Body::Message("ExplainRequest"),
            Body::Message("ExplainResponse"),
        ),
        other => post("vertex", other, Body::Json, Body::Json),
    };
    VERBS.iter().map(|(name, _)| (format!("{path}:{name}"), operation(name))).collect()
}

/// The operations of a route of the table, with their paths as OpenAPI writes them. `None` for a route without words.
pub fn operations(route: &str) -> Option<Vec<(String, Operation)>> {
    let here = |operation: Operation| Some(vec![(route.to_owned(), operation)]);
    match route {
        "/" => here(get("server", "What is served here.", Body::Json)),
        "/v1/endpoints" => here(get("server", "The endpoints with their models and examples.", Body::Json)),
        "/health" | "/readyz" => {
            here(get("container", "Whether predictions can be answered: 200, or 503.", Body::Named("Health")))
        }
        "/livez" => here(get("server", "Whether the process answers.", Body::Json)),
        "/metrics" => here(get("server", "Metrics for Prometheus.", Body::Text("text/plain"))),
        "/openapi.json" => here(get("server", "This description.", Body::Json)),
        "/docs" | "/docs/" => here(get("server", "This description, to be read and tried.", Body::Text("text/html"))),
        "/docs/{*file}" => Some(vec![(
            "/docs/{file}".to_owned(),
            get("server", "A file of the page that shows this description.", Body::Bytes),
        )]),
        "/predict" => here(post(
            "container",
            "Predict at the default endpoint.",
            Body::Named("ContainerRequest"),
            Body::Named("ContainerAnswer"),
        )),
        "/v1/endpoints/{endpoint}/deployedModels/{target}" => Some(deployed_model()),
        _ if route.ends_with("/endpoints/{target}") => {
            let path = route.replace("{target}", "{endpoint}");
            let show = get("vertex", "An endpoint with its deployed models.", Body::Json);
            let managed = if path.contains("/projects/") { management::endpoint(&path) } else { Vec::new() };
            Some(std::iter::once((path.clone(), show)).chain(managed).chain(verbs(&path)).collect())
        }
        _ if route.ends_with("/{*rest}") => Some(management::rest(route)),
        "/ui/{*name}" => Some(vec![(
            "/ui/{name}".to_owned(),
            get("management", "An operation, where Google's clients ask for it.", Body::Json),
        )]),
        _ if route.ends_with("/invoke/{*path}") => Some(vec![(
            route.replace("{*path}", "{path}"),
            post("vertex", "A path of the model's own, where it asks for them.", Body::Bytes, Body::Bytes),
        )]),
        _ if route.starts_with("/v1/models") => models(route),
        _ if route.starts_with("/v2") => open_inference(route).map(|operation| vec![(route.to_owned(), operation)]),
        _ => None,
    }
}

fn deployed_model() -> Vec<(String, Operation)> {
    let path = "/v1/endpoints/{endpoint}/deployedModels/{deployedModel}";
    let show = get("container", "A deployed model: the default health route of Vertex AI.", Body::Json);
    let predict = post(
        "container",
        "Predict with one deployed model: the default predict route of Vertex AI.",
        Body::Named("ContainerRequest"),
        Body::Named("ContainerAnswer"),
    );
    let verbs = verbs(path).into_iter().map(|(verb, operation)| match verb.ends_with(":predict") {
        true => (verb, predict.clone()),
        false => (verb, operation),
    });
    std::iter::once((path.to_owned(), show)).chain(verbs).collect()
}

fn models(route: &str) -> Option<Vec<(String, Operation)>> {
    if route == "/v1/models" {
        return Some(vec![(route.to_owned(), get("models", "The names of the models.", Body::Named("Models")))]);
    }
    if route.ends_with("/metadata") {
        return Some(vec![(route.to_owned(), get("models", "A model's inputs and outputs.", Body::Json))]);
    }
    let ask = |verb: &str, summary: &str, request, answer| {
        (format!("{route}:{verb}"), post("models", summary, Body::Named(request), Body::Named(answer)))
    };
    Some(vec![
        (route.to_owned(), get("models", "Whether a model is ready, and its versions.", Body::Named("ModelStatus"))),
        ask("predict", "Predict with rows or columns.", "PredictRequest", "PredictAnswer"),
        ask("classify", "Classes with their scores.", "ExamplesRequest", "ClassifyAnswer"),
        ask("regress", "One number for each example.", "ExamplesRequest", "RegressAnswer"),
    ])
}

fn open_inference(route: &str) -> Option<Operation> {
    const TAG: &str = "open-inference";
    Some(match route.rsplit('/').next()? {
        "v2" => get(TAG, "Who the server is.", Body::Named("ServerMetadata")),
        "live" => get(TAG, "Whether the process answers.", Body::Json),
        "ready" if route == "/v2/health/ready" => get(TAG, "Whether predictions can be answered.", Body::Json),
        "ready" => get(TAG, "Whether a model is ready.", Body::Json),
        "models" => get(TAG, "The names of the models.", Body::Named("Models")),
        "{model}" | "{version}" => get(TAG, "A model's inputs and outputs.", Body::Named("ModelMetadata")),
        "config" => get(TAG, "The same in Triton's form.", Body::Json),
        "stats" => get(TAG, "What was counted of models.", Body::Json),
        "infer" => post(
            TAG,
            "Tensors in, tensors out; with the header Inference-Header-Content-Length, bytes behind the JSON.",
            Body::Named("InferRequest"),
            Body::Named("InferAnswer"),
        ),
        "index" => post(TAG, "All models in all versions.", Body::Json, Body::Json),
        "load" | "unload" => post(TAG, "Refused: models come from elsewhere.", Body::Json, Body::Json),
        _ => return None,
    })
}
