#!/usr/bin/env python3
"""Ask a Tessera server over gRPC with Google's unmodified client library, as a program on Vertex AI would.

    tests/clients/predict_grpc.py target/debug/tessera

Starts the server on free ports with the repository's models, and drives `PredictionServiceClient` over a plaintext
channel: predictions, raw bodies, both versions, asyncio, and errors as exceptions with their details.
"""

import asyncio
import base64
import json
import sys

import grpc
from google.api import httpbody_pb2
from google.api_core import exceptions
from google.cloud import aiplatform_v1, aiplatform_v1beta1
from google.cloud.aiplatform_v1.services.prediction_service import transports
from google.cloud.aiplatform_v1beta1.services.prediction_service import transports as beta_transports
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Value
from google.rpc import error_details_pb2

from harness import PARENT, REPOSITORY, Checks, free_port, server

IMAGENET = f"{PARENT}/imagenet"
# What a program that sends pictures sets, as the client's own limit for answers is 4 MB.
UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


def example(name):
    return (REPOSITORY / "examples" / name).read_bytes()


def instance(name, **other):
    return json_format.ParseDict({"b64": base64.b64encode(example(name)).decode(), **other}, Value())


def raised(call):
    try:
        call()
    except exceptions.GoogleAPICallError as error:
        return error
    return None


def predictions(client, check):
    answer = client.predict(endpoint=IMAGENET, instances=[instance("cat.jpg"), instance("coffee.jpg")])
    labels = [dict(prediction)["label"] for prediction in answer.predictions]
    check("two pictures, in their order", labels == ["Egyptian cat", "espresso"], labels)
    check("the deployed model's id is digits", answer.deployed_model_id.isdigit(), answer.deployed_model_id)
    check("the model is named", answer.model_display_name == "imagenet" and answer.model_version_id == "1", answer.model)

    parameters = json_format.ParseDict({"top_k": 3}, Value())
    answer = client.predict(endpoint=IMAGENET, instances=[instance("cat.jpg")], parameters=parameters)
    top = dict(answer.predictions[0])
    check("top_k gives so many labels", len(top["labels"]) == 3 and top["labels"][0] == "Egyptian cat", list(top["labels"]))

    large = client.predict(endpoint=IMAGENET, instances=[instance("cat.jpg", note="x" * (9 << 20))])
    check("9 MB are no trouble", len(large.predictions) == 1)
    timed = client.predict(endpoint=IMAGENET, instances=[instance("cat.jpg")], timeout=30)
    check("with a deadline", len(timed.predictions) == 1)


def raw(client, check):
    body = httpbody_pb2.HttpBody(data=example("cat.jpg"), content_type="image/jpeg")
    answer = client.raw_predict(endpoint=IMAGENET, http_body=body)
    label = json.loads(answer.data)["predictions"][0]["label"]
    check("a JPEG as it is", label == "Egyptian cat" and answer.content_type == "application/json", label)

    request = {"instances": [json_format.MessageToDict(instance("coffee.jpg"))], "parameters": {"top_k": 2}}
    body = httpbody_pb2.HttpBody(data=json.dumps(request).encode(), content_type="application/json")
    whole = json.loads(client.raw_predict(endpoint=IMAGENET, http_body=body).data)
    check("JSON as it is", whole["predictions"][0]["labels"][0] == "espresso", whole)
    pieces = b"".join(piece.data for piece in client.stream_raw_predict(endpoint=IMAGENET, http_body=body))
    check("the stream gives the same", json.loads(pieces) == whole)


def errors(client, check):
    check.raises("no instances", exceptions.InvalidArgument, lambda: client.predict(endpoint=IMAGENET, instances=[]))
    missing = f"{PARENT}/none"
    check.raises(
        "no such endpoint", exceptions.NotFound, lambda: client.predict(endpoint=missing, instances=[instance("cat.jpg")])
    )
    text = json_format.ParseDict({"b64": "bm8="}, Value())
    error = raised(lambda: client.predict(endpoint=IMAGENET, instances=[instance("cat.jpg"), text]))
    check("text is no picture", type(error) is exceptions.InvalidArgument, error)
    violations = [
        violation.field
        for detail in error.details
        if isinstance(detail, error_details_pb2.BadRequest)
        for violation in detail.field_violations
    ]
    check("and the details name the field", violations == ["instances[1].b64"], violations)
    check("and the reason", (error.reason, error.domain) == ("INVALID_INSTANCE", "tessera"), (error.reason, error.domain))


async def asynchronous(address, check):
    async with grpc.aio.insecure_channel(address, options=UNLIMITED) as channel:
        transport = transports.PredictionServiceGrpcAsyncIOTransport(channel=channel)
        client = aiplatform_v1.PredictionServiceAsyncClient(transport=transport)
        calls = (client.predict(endpoint=IMAGENET, instances=[instance("cat.jpg")]) for _ in range(4))
        answers = await asyncio.gather(*calls)
        check("asyncio, four at once", all(dict(a.predictions[0])["label"] == "Egyptian cat" for a in answers))


def run(address, check):
    channel = grpc.insecure_channel(address, options=UNLIMITED)
    client = aiplatform_v1.PredictionServiceClient(transport=transports.PredictionServiceGrpcTransport(channel=channel))
    predictions(client, check)
    raw(client, check)
    errors(client, check)
    beta = aiplatform_v1beta1.PredictionServiceClient(
        transport=beta_transports.PredictionServiceGrpcTransport(channel=channel)
    )
    answer = beta.predict(endpoint=IMAGENET, instances=[instance("cat.jpg")])
    check("v1beta1 as well", dict(answer.predictions[0])["label"] == "Egyptian cat")
    asyncio.run(asynchronous(address, check))
    channel.close()


def main():
    binary = sys.argv[1] if len(sys.argv) > 1 else REPOSITORY / "target/debug/tessera"
    check = Checks()
    grpc_port = free_port()
    with server(binary, grpc_port):
        run(f"127.0.0.1:{grpc_port}", check)
    print(f"{check.passed} passed, {check.failed} failed")
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(main())
