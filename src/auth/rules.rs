//! What a request needs, by what it asks for. What isn't known here needs the most.

use http::Method;

/// What a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing: health, and descriptions of the API itself.
    Nothing,
    /// Any token.
    Token,
    /// One that may ask for predictions.
    Predict,
    /// One that may change what is served.
    Manage,
}

/// What a request asks for.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its path, as it came.
    pub path: &'a str,
    /// Whether it is a call of gRPC.
    pub is_grpc: bool,
}

/// The verbs after the colon that predict.
const PREDICT: [&str; 9] = [
    "predict",
    "rawPredict",
    "streamRawPredict",
    "directPredict",
    "directRawPredict",
    "serverStreamingPredict",
    "explain",
    "classify",
    "regress",
];

impl Asked<'_> {
    /// What it needs.
    pub fn need(&self) -> Need {
        match self.is_grpc {
            true => self.call_needs(),
            false => self.request_needs(),
        }
    }

    fn request_needs(&self) -> Need {
        let segments: Vec<&str> = self.path.split('/').skip(1).collect();
        let is_read = self.method == Method::GET || self.method == Method::HEAD;
        match segments.as_slice() {
            ["health" | "livez" | "readyz"] => return Need::Nothing,
            ["v2", "health", ..] if is_read => return Need::Nothing,
            ["docs" | "openapi.json" | "openapi.yaml" | "swagger-ui", ..] if is_read => return Need::Nothing,
            _ => {}
        }
        let last = segments.last().copied().unwrap_or_default();
        let is_wait = verb(last) == Some("wait") && segments.contains(&"operations");
        if is_read || (is_wait && self.method == Method::POST) {
            return Need::Token;
        }
        let predicts = match segments.as_slice() {
            ["predict"] => true,
            ["v2", "models", .., "infer" | "generate" | "generate_stream"] => true,
            ["v1" | "v1beta1", "projects", _, "locations", _, "endpoints", _, "invoke", ..] => true,
            ["v1" | "v1beta1", "projects", _, "locations", _, "endpoints", _, "deployedModels", _, "invoke", ..] => {
                true
            }
            ["v1" | "v1beta1", ..] => verb(last).is_some_and(|verb| PREDICT.contains(&verb)),
            _ => false,
        };
        if predicts && self.method == Method::POST { Need::Predict } else { Need::Manage }
    }

    fn call_needs(&self) -> Need {
        let mut parts = self.path.trim_start_matches('/').split('/');
        let (service, method) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let name = service.rsplit('.').next().unwrap_or_default();
        match (service, name, method) {
            ("grpc.health.v1.Health", _, _) | (_, "GRPCInferenceService", "ServerLive" | "ServerReady") => {
                Need::Nothing
            }
            (_, "PredictionService", _) | (_, "GRPCInferenceService", "ModelInfer" | "ModelStreamInfer") => {
                Need::Predict
            }
            (_, "ServerReflection" | "GRPCInferenceService", _) => Need::Token,
            _ if ["Get", "List", "Wait"].iter().any(|reads| method.starts_with(reads)) => Need::Token,
            _ => Need::Manage,
        }
    }

    /// Whether it can be answered to somebody who may use some endpoints only. Predictions and the methods of management can:
    /// they ask about the endpoint where they have found it. Anything else must name one of theirs in its path.
    pub fn concerns(&self, need: Need, may_use: impl Fn(&str) -> bool) -> bool {
        if matches!(need, Need::Nothing | Need::Predict) {
            return true;
        }
        if self.is_grpc {
            const MANAGEMENT: [&str; 3] = ["EndpointService", "ModelService", "Operations"];
            let service = self.path.rsplit('/').nth(1).and_then(|service| service.rsplit('.').next());
            return service.is_some_and(|service| MANAGEMENT.contains(&service));
        }
        let segments: Vec<&str> = self.path.split('/').skip(1).collect();
        match segments[..] {
            ["v1" | "v1beta1" | "ui", "projects", ..] => true,
            ["v1" | "v2", "endpoints" | "models", name, ..] => {
                may_use(name.rsplit_once(':').map_or(name, |(name, _)| name))
            }
            _ => false,
        }
    }
}

/// What stands after the last colon of a segment, which clients may write `%3A`.
fn verb(segment: &str) -> Option<&str> {
    let after = |mark: &str| segment.rfind(mark).map(|at| at + mark.len());
    let begin = [":", "%3A", "%3a"].into_iter().filter_map(after).max()?;
    segment.get(begin..)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(method: &Method, path: &str) -> Need {
        Asked { method, path, is_grpc: false }.need()
    }

    #[test]
    fn requests() {
        let endpoint = "/v1/projects/p/locations/l/endpoints/7";
        for path in ["/health", "/livez", "/readyz", "/v2/health/ready", "/docs/", "/openapi.json"] {
            assert_eq!(need(&Method::GET, path), Need::Nothing, "{path}");
        }
        for path in [
            "/",
            "/metrics",
            endpoint,
            "/v1/endpoints/7",
            // Vertex AI's default health route; where that is in force, it has been taken for /health before.
            "/v1/endpoints/7/deployedModels/8",
            "/v1/models/m",
            "/v2/models/m",
            "/v1/endpoints/7/deployedModels/8:predict",
        ] {
            assert_eq!(need(&Method::GET, path), Need::Token, "{path}");
        }
        for path in [
            "/predict",
            "/v1/endpoints/7:predict",
            "/v1/endpoints/7%3Apredict",
            "/v1/endpoints/7/deployedModels/8:predict",
            "/v1/models/m:predict",
            "/v1/models/m/versions/1:classify",
            "/v2/models/m/infer",
            "/v2/models/m/versions/1/infer",
            &format!("{endpoint}:rawPredict"),
            &format!("{endpoint}:explain"),
            &format!("{endpoint}/invoke/a/b"),
        ] {
            assert_eq!(need(&Method::POST, path), Need::Predict, "{path}");
        }
        for path in [
            "/v1/projects/p/locations/l/endpoints",
            "/v1/projects/p/locations/l/models:upload",
            "/unknown",
            "/predict/",
            &format!("{endpoint}:deployModel"),
            endpoint,
            "/unknown:predict",
        ] {
            assert_eq!(need(&Method::POST, path), Need::Manage, "{path}");
        }
        assert_eq!(need(&Method::DELETE, endpoint), Need::Manage);
        assert_eq!(need(&Method::PATCH, &format!("{endpoint}:predict")), Need::Manage);
    }

    #[test]
    fn calls() {
        let call = |path: &str| Asked { method: &Method::POST, path, is_grpc: true }.need();
        let aiplatform = |rest: &str| format!("/google.cloud.aiplatform.v1.{rest}");
        assert_eq!(call("/grpc.health.v1.Health/Check"), Need::Nothing);
        assert_eq!(call(&aiplatform("PredictionService/Predict")), Need::Predict);
        assert_eq!(call("/google.cloud.aiplatform.v1beta1.PredictionService/RawPredict"), Need::Predict);
        assert_eq!(call("/inference.GRPCInferenceService/ModelInfer"), Need::Predict);
        assert_eq!(call("/inference.GRPCInferenceService/ServerReady"), Need::Nothing);
        assert_eq!(call(&aiplatform("EndpointService/GetEndpoint")), Need::Token);
        assert_eq!(call(&aiplatform("EndpointService/DeployModel")), Need::Manage);
        assert_eq!(call(&aiplatform("ModelService/UploadModel")), Need::Manage);
        assert_eq!(call("/google.longrunning.Operations/DeleteOperation"), Need::Manage);
        assert_eq!(call("/x.Health/Check"), Need::Manage);
    }

    #[test]
    fn the_restricted_see_their_own() {
        let concerns = |path: &str, need| {
            Asked { method: &Method::GET, path, is_grpc: false }.concerns(need, |endpoint| endpoint == "mine")
        };
        assert!(
            concerns("/v1/endpoints/mine", Need::Token) && concerns("/v1/endpoints/mine:undeployModel", Need::Manage)
        );
        assert!(!concerns("/v1/endpoints/other", Need::Token) && !concerns("/v1/endpoints", Need::Token));
        assert!(concerns("/predict", Need::Predict), "asked about where the default endpoint is known");
    }
}
