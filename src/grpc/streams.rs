//! Methods that answer each message of a stream: the endpoint, and the method where there is one, are those of the first
//! message; which deployed model answers is decided for each.
//!
//! Answers keep the order of the messages. A few messages are worked on at once, so that they can share batches; the
//! next one is read from the connection only when one of them is answered and its answer taken, which holds back a client
//! that sends faster than it reads. The first message that fails ends the stream with its status.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, future, stream};
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Streaming};

use super::Grpc;
use super::ask::Head;
use super::call::Call;
use super::methods::Methods;
use super::status::to_tonic;
use crate::protocol::generated::google::cloud::aiplatform::v1 as wire;
use crate::protocol::status::{Code, Status};
use crate::server::Drain;
use crate::service::{Chosen, InputSet, read_direct, write_direct};

/// The most messages of one stream that are worked on at once.
const WINDOW: usize = 8;

/// What the streams need beside the service.
#[derive(Clone)]
pub struct Streams {
    drain: Drain,
    methods: Option<Arc<Methods>>,
}

impl Streams {
    /// Streams end when `drain` closes. Without `methods` none can be called by its name.
    pub fn new(drain: Drain, methods: Option<Arc<Methods>>) -> Self {
        Self { drain, methods }
    }

    /// The methods that can be called by their names.
    ///
    /// # Errors
    /// UNIMPLEMENTED inside of such a call, which therefore ends there.
    pub fn methods(&self) -> Result<Arc<Methods>, tonic::Status> {
        let nested = || {
            let message = "a method that calls others by their names can't be called by its own";
            to_tonic(&Status::new(Code::Unimplemented, message))
        };
        self.methods.clone().ok_or_else(nested)
    }

    /// `StreamDirectPredict` and `StreamingPredict`.
    pub fn direct<Q: DirectMessage>(
        &self,
        grpc: &Arc<Grpc>,
        request: Request<Streaming<Q>>,
    ) -> Result<Response<BoxStream<Q::Answer>>, tonic::Status> {
        let head = Head::of(&request, grpc);
        let grpc = grpc.clone();
        let mut first: Option<String> = None;
        let answers = in_order(self.until_closing(request.into_inner()), move |message: Q| {
            let (endpoint, inputs, parameters) = message.into_parts();
            let endpoint = first.get_or_insert(endpoint).clone();
            let (grpc, head) = (grpc.clone(), head.clone());
            let call = head.call.message(grpc.settings.request_timeout);
            async move {
                let chosen = grpc.choose_of(&head, &endpoint)?;
                grpc.direct(call, &chosen, inputs, parameters).await.map(Q::Answer::from)
            }
        });
        Ok(Response::new(answers))
    }

    /// `StreamDirectRawPredict` and `StreamingRawPredict`.
    pub fn direct_raw<Q: RawMessage>(
        &self,
        grpc: &Arc<Grpc>,
        request: Request<Streaming<Q>>,
    ) -> Result<Response<BoxStream<Q::Answer>>, tonic::Status> {
        let head = Head::of(&request, grpc);
        let methods = self.methods()?;
        let passed = Methods::passed(request.metadata().as_ref());
        let timeout = grpc.settings.request_timeout;
        let mut first: Option<(String, String)> = None;
        let messages = self.until_closing(request.into_inner());
        let answers = in_order(messages, move |message: Q| {
            let (endpoint, method, input) = message.into_parts();
            let (endpoint, method) = first.get_or_insert((endpoint, method)).clone();
            let (methods, head, passed) = (methods.clone(), head.clone(), passed.clone());
            let call = head.call.message(timeout);
            async move {
                let endpoint = head.endpoint(&endpoint).map_err(|status| to_tonic(&status))?;
                let answer = methods.call(endpoint, &method, input, passed, call).await?;
                Ok::<_, tonic::Status>(Q::Answer::from(answer.into_inner()))
            }
        });
        Ok(Response::new(answers))
    }

    /// The messages of a stream until the process closes, which ends it with UNAVAILABLE: what was read is answered, and
    /// the client knows that the rest wasn't.
    pub fn until_closing<Q: Send + 'static>(
        &self,
        messages: Streaming<Q>,
    ) -> impl Stream<Item = Result<Q, tonic::Status>> + Send + 'static {
        stream::unfold(Some((messages, self.drain.clone())), move |state| async move {
            let (mut messages, drain) = state?;
            tokio::select! {
                biased;
                message = messages.message() => match message {
                    Ok(message) => Some((Ok(message?), Some((messages, drain)))),
                    Err(status) => Some((Err(status), None)),
                },
                () = drain.closing() => {
                    let status = Status::unavailable("the server is shutting down", std::time::Duration::ZERO);
                    Some((Err(to_tonic(&status)), None))
                }
            }
        })
    }
}

impl Grpc {
    /// The outputs for one set of inputs.
    ///
    /// # Errors
    /// The status for the client.
    pub async fn direct(
        &self,
        call: Call,
        chosen: &Chosen,
        inputs: impl Into<InputSet> + Send,
        parameters: Option<wire::Tensor>,
    ) -> Result<Vec<wire::Tensor>, Status> {
        let limit = self.settings.instances;
        let read = || {
            let question = read_direct(&chosen.deployed.model, inputs, parameters.as_ref(), limit);
            Ok((question.map_err(|error| Status::from(&error))?, ()))
        };
        self.ask(call, chosen, read, |predictions, ()| Ok(write_direct(predictions))).await
    }
}

/// Answers messages in their order, some of them at once, until one fails.
pub fn in_order<Q, A, F, E>(
    messages: impl Stream<Item = Result<Q, tonic::Status>> + Send + 'static,
    mut answer: impl FnMut(Q) -> F + Send + 'static,
) -> BoxStream<A>
where
    Q: Send + 'static,
    A: Send + 'static,
    F: Future<Output = Result<A, E>> + Send + 'static,
    E: IntoTonic,
{
    let answers = messages.map(move |message| {
        let answer = message.map(&mut answer);
        async move {
            match answer {
                Ok(answer) => answer.await.map_err(E::into_tonic),
                Err(status) => Err(status),
            }
        }
    });
    let until_failure = answers.buffered(WINDOW).scan(false, |failed, answer| {
        let before = std::mem::replace(failed, *failed || answer.is_err());
        future::ready((!before).then_some(answer))
    });
    Box::pin(until_failure)
}

/// A status in either form.
pub trait IntoTonic: Send {
    /// As the client gets it.
    fn into_tonic(self) -> tonic::Status;
}

impl IntoTonic for tonic::Status {
    fn into_tonic(self) -> tonic::Status {
        self
    }
}

impl IntoTonic for Status {
    fn into_tonic(self) -> tonic::Status {
        to_tonic(&self)
    }
}

/// A message with tensors, under whichever of its names.
pub trait DirectMessage: Send + 'static {
    /// What answers it.
    type Answer: From<Vec<wire::Tensor>> + Send + 'static;

    /// The endpoint, the inputs and the parameters.
    fn into_parts(self) -> (String, Vec<wire::Tensor>, Option<wire::Tensor>);
}

/// A message for a method by its name, under whichever of its names.
pub trait RawMessage: Send + 'static {
    /// What answers it.
    type Answer: From<Bytes> + Send + 'static;

    /// The endpoint, the method and its message.
    fn into_parts(self) -> (String, String, Bytes);
}

macro_rules! messages {
    ($($direct:ident => $direct_answer:ident, $raw:ident => $raw_answer:ident;)*) => {$(
        impl DirectMessage for wire::$direct {
            type Answer = wire::$direct_answer;

            fn into_parts(self) -> (String, Vec<wire::Tensor>, Option<wire::Tensor>) {
                (self.endpoint, self.inputs, self.parameters)
            }
        }

        impl From<Vec<wire::Tensor>> for wire::$direct_answer {
            fn from(outputs: Vec<wire::Tensor>) -> Self {
                Self { outputs, parameters: None }
            }
        }

        impl RawMessage for wire::$raw {
            type Answer = wire::$raw_answer;

            fn into_parts(self) -> (String, String, Bytes) {
                (self.endpoint, self.method_name, self.input)
            }
        }

        impl From<Bytes> for wire::$raw_answer {
            fn from(output: Bytes) -> Self {
                Self { output }
            }
        }
    )*};
}

messages! {
    StreamDirectPredictRequest => StreamDirectPredictResponse, StreamDirectRawPredictRequest => StreamDirectRawPredictResponse;
    StreamingPredictRequest => StreamingPredictResponse, StreamingRawPredictRequest => StreamingRawPredictResponse;
}
