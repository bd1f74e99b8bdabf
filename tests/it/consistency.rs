//! REST and gRPC, asked the same thousand generated questions: the same predictions, to the last bit, and the same
//! refusals, in code, words and field. Seeded: a failure names its question, and comes again.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{StreamExt, stream};
use serde_json::{Map, Value, json};
use tessera::protocol::generated::google::api::HttpBody;
use tessera::protocol::generated::google::cloud::aiplatform::v1 as wire;
use tessera::protocol::status::canonical;
use tonic::transport::Channel;
use tonic::{Request, Response};
use tonic_types::StatusExt;

use crate::grpc::{V1, V1BETA1, call, channel, serving, value};
use crate::harness::{Server, client, colour};

/// How many questions are asked.
const QUESTIONS: usize = 1000;
/// The most instances of one.
const LIMIT: usize = 6;

/// The models, each with an instance that it takes, whose numbers and strings are replaced.
const MODELS: [(&str, &str); 20] = [
    ("linear", "[1, 2, 3, 4]"),
    ("linear-flat", r#"{"x": [1, 2, 3, 4]}"#),
    ("columns", r#"{"age": 39, "city": "Oslo"}"#),
    ("echo-bool", "[true, false]"),
    ("echo-string", r#"["a", {"b64": "YQ=="}]"#),
    ("echo-float16", "[0.5, 2]"),
    ("echo-float32", r#"[0.1, "NaN"]"#),
    ("echo-float64", r#"[0.1, "-Infinity"]"#),
    ("echo-int8", "[1, 2]"),
    ("echo-int16", "[1, 2]"),
    ("echo-int32", "[1, 2]"),
    ("echo-int64", "[1, 2]"),
    ("echo-uint8", "[1, 2]"),
    ("echo-uint32", "[1, 2]"),
    ("echo-uint64", "[1, 2]"),
    ("echo-grid", "[[1, 2], [3, 4]]"),
    ("classes", "[1, 2]"),
    ("zip-map", "[1, 2]"),
    ("zip-map-text", "[1, 2]"),
    ("colour", r#"{"b64": ""}"#),
];

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    fn number(&mut self) -> Value {
        match self.below(6) {
            0 => json!(self.below(300)),
            1 => json!(-i64::try_from(self.below(40_000)).unwrap()),
            // What a double holds exactly; beyond, the API's JSON and gRPC agree only on doubles.
            2 => json!(self.next() >> 11),
            3 => json!(f64::from(u32::try_from(self.next() >> 40).unwrap()) / 1024.0),
            4 => json!((self.next() >> 11) as f64 * 1e-20),
            _ => json!(self.one_of(&[1e20, 1e39, -1e300, 0.1, -0.0, 65_520.0, 1.5, 255.0, 256.0])),
        }
    }

    fn scalar(&mut self) -> Value {
        match self.below(8) {
            0..=3 => self.number(),
            4 => json!(self.one_in(2)),
            5 => {
                json!(self.one_of(&["", "Oslo", "Rome", "s\u{f8}t \u{65e5}\n\"", "NaN", "Infinity", "nan", "a\u{0}b"]))
            }
            6 => json!({"b64": self.one_of(&["", "T3Nsbw==", "_w==", "####", "YQ"])}),
            _ => Value::Null,
        }
    }

    /// Any JSON.
    fn anything(&mut self, depth: usize) -> Value {
        match self.below(if depth == 0 { 1 } else { 4 }) {
            0 | 1 => self.scalar(),
            2 => (0..self.below(5)).map(|_| self.anything(depth - 1)).collect(),
            _ => {
                let mut entries = Map::new();
                for _ in 0..self.below(3) {
                    let name = self.one_of(&["x", "age", "city", "b64", "image", "other"]);
                    entries.insert(name.to_owned(), self.anything(depth - 1));
                }
                Value::Object(entries)
            }
        }
    }

    /// Something like the example, with other values and now and then a part that doesn't fit.
    fn like(&mut self, example: &Value) -> Value {
        if self.one_in(25) {
            return self.anything(2);
        }
        match example {
            Value::Number(_) if self.one_in(3) => self.number(),
            Value::Number(_) => json!(self.below(100)),
            Value::Bool(_) => json!(self.one_in(2)),
            Value::String(_) if self.one_in(3) => self.scalar(),
            Value::Array(values) => {
                let mut values: Vec<Value> = values.iter().map(|value| self.like(value)).collect();
                if self.one_in(15) {
                    values.pop();
                }
                if self.one_in(15) {
                    values.push(self.scalar());
                }
                Value::Array(values)
            }
            Value::Object(entries) => {
                let entries = entries.iter().map(|(name, value)| (name.clone(), self.like(value)));
                let mut entries: Map<_, _> = entries.collect();
                if self.one_in(15) {
                    entries.insert("other".to_owned(), self.scalar());
                }
                Value::Object(entries)
            }
            other => other.clone(),
        }
    }

    fn picture(&mut self) -> Value {
        let file =
            colour([self.below(256), self.below(256), self.below(256)].map(|level| u8::try_from(level).unwrap()));
        let text = match self.below(8) {
            0 => STANDARD.encode(&file[..file.len() / 2]),
            1 => STANDARD.encode("no picture"),
            _ => STANDARD.encode(file),
        };
        match self.below(3) {
            0 => json!(text),
            1 => json!({"image": {"b64": text}, "tag": self.scalar()}),
            _ => json!({"b64": text}),
        }
    }

    fn parameters(&mut self) -> Value {
        match self.below(10) {
            0..=5 => Value::Null,
            6 => json!({}),
            7 => json!({"top_k": self.scalar()}),
            8 => json!({"maxPredictions": self.below(4), "confidenceThreshold": 0.3}),
            _ => self.anything(1),
        }
    }

    fn question(&mut self) -> Question {
        let (model, example) = MODELS[self.below(MODELS.len())];
        let example: Value = serde_json::from_str(example).unwrap();
        let count = if self.one_in(12) { self.below(LIMIT + 2) } else { 1 + self.below(3) };
        let instance = |random: &mut Self| match model {
            "colour" if !random.one_in(8) => random.picture(),
            _ => random.like(&example),
        };
        Question {
            endpoint: if self.one_in(40) { "none" } else { model },
            instances: (0..count).map(|_| instance(self)).collect(),
            parameters: self.parameters(),
            raw: self.one_in(4),
            service: if self.one_in(4) { V1BETA1 } else { V1 },
        }
    }
}

struct Question {
    endpoint: &'static str,
    instances: Vec<Value>,
    parameters: Value,
    raw: bool,
    service: &'static str,
}

/// What a client sees: the answer, or HTTP status, canonical code, message and field.
type Outcome = Result<Value, (u16, String, String, Value)>;

impl Question {
    fn name(&self) -> String {
        format!("projects/p/locations/l/endpoints/{}", self.endpoint)
    }

    fn body(&self) -> Value {
        json!({"instances": self.instances, "parameters": self.parameters})
    }

    async fn over_rest(&self, client: &reqwest::Client, server: &Server) -> Outcome {
        let version = if self.service == V1BETA1 { "v1beta1" } else { "v1" };
        let verb = if self.raw { "rawPredict" } else { "predict" };
        let url = server.url(&format!("/{version}/{}:{verb}", self.name()));
        let response = client.post(url).json(&self.body()).send().await.unwrap();
        let status = response.status().as_u16();
        let answer: Value = response.json().await.unwrap();
        match status {
            200 => Ok(doubles(&answer)),
            _ => {
                let error = &answer["error"];
                let text = |name: &str| error[name].as_str().unwrap().to_owned();
                let field = error["details"][0]["fieldViolations"][0]["field"].clone();
                Err((status, text("status"), text("message"), field))
            }
        }
    }

    async fn over_grpc(&self, channel: &Channel) -> Outcome {
        let answered = if self.raw {
            let http_body = HttpBody {
                content_type: "application/json".to_owned(),
                data: self.body().to_string().into(),
                extensions: Vec::new(),
            };
            let request = wire::RawPredictRequest { endpoint: self.name(), http_body: Some(http_body) };
            let method = format!("{}/RawPredict", self.service);
            let response: Result<Response<HttpBody>, _> = call(channel, &method, Request::new(request)).await;
            response.map(|response| serde_json::from_slice(&response.into_inner().data).unwrap())
        } else {
            let request = wire::PredictRequest {
                endpoint: self.name(),
                instances: self.instances.iter().map(value).collect(),
                parameters: Some(value(&self.parameters)),
                labels: Default::default(),
            };
            let method = format!("{}/Predict", self.service);
            let response: Result<Response<wire::PredictResponse>, _> =
                call(channel, &method, Request::new(request)).await;
            response.map(|response| tessera::protocol::proto_json::write(&response.into_inner()).unwrap())
        };
        match answered {
            Ok(answer) => Ok(doubles(&answer)),
            Err(status) => {
                let (name, http) = canonical(status.code().into());
                let request = status.get_details_bad_request();
                let field = request.and_then(|request| Some(request.field_violations.first()?.field.clone()));
                Err((http.as_u16(), name.to_owned(), status.message().to_owned(), json!(field)))
            }
        }
    }
}

/// The same JSON with all numbers as doubles: 1 and 1.0 are one value to the API.
fn doubles(json: &Value) -> Value {
    match json {
        Value::Number(number) => json!(number.as_f64().unwrap()),
        Value::Array(values) => values.iter().map(doubles).collect(),
        Value::Object(entries) => entries.iter().map(|(name, value)| (name.clone(), doubles(value))).collect(),
        other => other.clone(),
    }
}

#[tokio::test]
async fn a_thousand_questions_have_one_answer_each() {
    let models = MODELS.map(|(model, _)| model);
    let server = serving(&models).setting("limits.instances", &LIMIT.to_string()).start();
    let (channel, client) = (channel(&server).await, client());
    let mut random = Random(20_261_122);
    let questions: Vec<Question> = (0..QUESTIONS).map(|_| random.question()).collect();
    let (server, channel, client) = (&server, &channel, &client);
    let outcomes = stream::iter(questions.iter().enumerate()).map(|(index, question)| async move {
        let (rest, grpc) = tokio::join!(question.over_rest(client, server), question.over_grpc(channel));
        // A list without elements can't be told from one that is missing in a message.
        let is_missing =
            |outcome: &Outcome| matches!(outcome, Err((400, _, message, _)) if message.contains("`instances` is"));
        if !(is_missing(&rest) && is_missing(&grpc)) {
            assert_eq!(rest, grpc, "question {index} to {}: {}", question.endpoint, question.body());
        }
        rest
    });
    let outcomes: Vec<Outcome> = outcomes.buffered(8).collect().await;
    // The questions are worth asking: all kinds of outcomes are among them.
    let answered = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert!((QUESTIONS / 4..QUESTIONS * 3 / 4).contains(&answered), "{answered} of {QUESTIONS} were answered");
    let refusals =
        |status: u16| outcomes.iter().filter(|outcome| matches!(outcome, Err((code, ..)) if *code == status)).count();
    assert!(refusals(400) > 100 && refusals(404) > 5, "{} and {}", refusals(400), refusals(404));
    let messages: std::collections::HashSet<&str> = outcomes
        .iter()
        .filter_map(|outcome| outcome.as_ref().err())
        .map(|(_, _, message, _)| message.as_str())
        .collect();
    assert!(messages.len() > 80, "{} different messages", messages.len());
    assert!(outcomes.iter().all(|outcome| !matches!(outcome, Err((500.., ..)))), "none is our fault");
}
