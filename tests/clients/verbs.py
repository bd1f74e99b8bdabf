#!/usr/bin/env python3
"""All prediction methods with Google's unmodified clients: the Python SDK over REST and gRPC, and gcloud where it is there.

    tests/clients/verbs.py target/debug/tessera

Starts the server on free ports with small models of `tests/models`, whose answers are known by heart: `linear` is
x . (1, 2, 3, 4) + 0.5.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import grpc
import requests
from google.api import httpbody_pb2
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import aiplatform, aiplatform_v1, aiplatform_v1beta1
from google.cloud.aiplatform_v1.services.prediction_service import transports
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Value

from harness import PARENT, REPOSITORY, Checks, free_port, server

LINEAR = f"{PARENT}/linear"
ROWS = [[1, 2, 3, 4], [5, 6, 7, 8]]
ANSWERS = [30.5, 70.5]
Tensor = aiplatform_v1.Tensor
MODELS = ["linear", "columns", "colour", "echo-int64"]


def tensor(rows=ROWS):
    values = [value for row in rows for value in row]
    return Tensor(dtype=Tensor.DataType.FLOAT, shape=[len(rows), 4], float_val=values)


def body(content, content_type="application/json"):
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return httpbody_pb2.HttpBody(data=data, content_type=content_type)


def both(client, check, over):
    """What can be asked over REST and gRPC alike."""
    raw = client.raw_predict(endpoint=LINEAR, http_body=body({"instances": ROWS}))
    check(f"{over}: raw_predict", json.loads(raw.data) == {"predictions": [[30.5], [70.5]]}, raw.content_type)
    pieces = list(client.stream_raw_predict(endpoint=LINEAR, http_body=body({"instances": ROWS})))
    check(f"{over}: stream_raw_predict", json.loads(b"".join(piece.data for piece in pieces))["predictions"] == [[30.5], [70.5]])

    direct = client.direct_predict(request={"endpoint": LINEAR, "inputs": [tensor()]}).outputs[0]
    check(f"{over}: direct_predict", list(direct.float_val) == ANSWERS and list(direct.shape) == [2, 1], list(direct.float_val))
    large = Tensor(dtype=Tensor.DataType.INT64, shape=[1, 2], int64_val=[2**63 - 1, -(2**53) - 1])
    answer = client.direct_predict(request={"endpoint": f"{PARENT}/echo-int64", "inputs": [large]})
    check(f"{over}: integers of 64 bits are whole", list(answer.outputs[0].int64_val) == list(large.int64_val))
    streamed = client.server_streaming_predict(request={"endpoint": LINEAR, "inputs": [tensor([row]) for row in ROWS]})
    pieces = [list(answer.outputs[0].float_val) for answer in streamed]
    check(f"{over}: server_streaming_predict", pieces == [[value] for value in ANSWERS], pieces)

    values = [json_format.ParseDict(row, Value()) for row in ROWS]
    inner = aiplatform_v1.PredictRequest.pb(aiplatform_v1.PredictRequest())
    inner.instances.extend(values)
    request = {"endpoint": LINEAR, "method_name": "/google.cloud.aiplatform.v1.PredictionService/Predict"}
    request["input"] = inner.SerializeToString()
    output = aiplatform_v1.PredictResponse.deserialize(client.direct_raw_predict(request=request).output)
    check(f"{over}: direct_raw_predict", [row[0] for row in output.predictions] == ANSWERS)
    unknown = {**request, "method_name": "/tensorflow.serving.PredictionService/Predict"}
    check.raises(f"{over}: no such method", exceptions.MethodNotImplemented, lambda: client.direct_raw_predict(request=unknown))

    explained = client.explain(endpoint=LINEAR, instances=values)
    attribution = explained.explanations[0].attributions[0]
    features = json_format.MessageToDict(aiplatform_v1.Attribution.pb(attribution).feature_attributions)
    exact = all(abs(found - wanted) < 1e-9 for found, wanted in zip(features["x"], [1, 4, 9, 16], strict=True))
    check(f"{over}: explain gives the weights times the inputs", exact, features)
    ends = (attribution.baseline_output_value, attribution.instance_output_value, list(attribution.output_index))
    check(f"{over}: and what they add up to", ends == (0.5, 30.5, [0]), ends)
    wrong = {"parameters": {"xrai_attribution": {"step_count": 5}}}
    refused = exceptions.BadRequest if over == "REST" else exceptions.InvalidArgument
    request = aiplatform_v1.ExplainRequest(endpoint=LINEAR, explanation_spec_override=wrong)
    aiplatform_v1.ExplainRequest.pb(request).instances.extend(values)
    check.raises(f"{over}: another method", refused, lambda: client.explain(request=request))


def streams(client, check):
    """What goes over gRPC alone."""
    count = 50
    for name, message in [
        ("stream_direct_predict", aiplatform_v1.StreamDirectPredictRequest),
        ("streaming_predict", aiplatform_v1.StreamingPredictRequest),
    ]:
        rows = (message(endpoint=LINEAR if i == 0 else "", inputs=[tensor([[i, 0, 0, 0]])]) for i in range(count))
        values = [answer.outputs[0].float_val[0] for answer in getattr(client, name)(rows)]
        check(f"gRPC: {name} keeps the order", values == [i + 0.5 for i in range(count)])
    method = "/grpc.health.v1.Health/Check"
    for name, message in [
        ("stream_direct_raw_predict", aiplatform_v1.StreamDirectRawPredictRequest),
        ("streaming_raw_predict", aiplatform_v1.StreamingRawPredictRequest),
    ]:
        calls = iter([message(endpoint=LINEAR, method_name=method)] * 3)
        outputs = [answer.output for answer in getattr(client, name)(calls)]
        check(f"gRPC: {name}", outputs == [b"\x08\x01"] * 3, outputs)


async def asynchronous(address, check):
    async with grpc.aio.insecure_channel(address) as channel:
        transport = transports.PredictionServiceGrpcAsyncIOTransport(channel=channel)
        client = aiplatform_v1.PredictionServiceAsyncClient(transport=transport)
        answer = await client.direct_predict(request={"endpoint": LINEAR, "inputs": [tensor()]})
        check("asyncio: direct_predict", list(answer.outputs[0].float_val) == ANSWERS)


def high_level(port, check):
    aiplatform.init(
        project="local-project", location="us-central1", api_endpoint=f"http://127.0.0.1:{port}",
        api_transport="rest", credentials=AnonymousCredentials(),
    )
    answer = aiplatform.Endpoint("columns").explain(instances=[{"age": 39, "city": "Oslo"}])
    features = dict(answer.explanations[0].attributions[0].feature_attributions)
    check("aiplatform.Endpoint.explain", features == {"age": 39.0, "city": 1000.0}, features)
    check("and it has predictions", list(answer.predictions[0]) == [1039.0], answer.predictions)


def container(port, check):
    """The requests of LocalEndpoint and of Vertex itself."""
    url = f"http://127.0.0.1:{port}/predict"
    for headers in ({}, {"Content-Type": "application/json; charset=utf-8"}, {"Content-Type": "application/x-www-form-urlencoded"}):
        answer = requests.post(url, data=json.dumps({"instances": ROWS, "parameters": None}), headers=headers, timeout=30)
        check(f"container, {headers or 'no content type'}", answer.json() == {"predictions": [[30.5], [70.5]]}, answer.text)


def gcloud_command(port, scratch, *words):
    """Runs the command line, as it is installed, for this server."""
    environment = {
        **os.environ,
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_AIPLATFORM": f"http://127.0.0.1:{port}/",
        "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "true",
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
        "CLOUDSDK_CONFIG": str(scratch / "gcloud"),
    }
    command = ["gcloud", *words, "--project=local-project", "--region=us-central1"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def gcloud(port, check, scratch):
    (scratch / "request.json").write_text(json.dumps({"instances": ROWS}))
    (scratch / "direct.json").write_text(json.dumps({"inputs": [{"dtype": "FLOAT", "shape": [1, 4], "floatVal": ROWS[0]}]}))
    for verb, arguments, wanted in [
        ("predict", [f"--json-request={scratch}/request.json"], "[[30.5], [70.5]]"),
        ("raw-predict", ['--request={"instances": [[1, 2, 3, 4]]}'], '{"predictions":[[30.5]]}'),
        ("explain", [f"--json-request={scratch}/request.json"], '"instanceOutputValue": 30.5'),
        ("direct-predict", [f"--json-request={scratch}/direct.json"], "'floatVal': [30.5]"),
    ]:
        done = gcloud_command(port, scratch, "ai", "endpoints", verb, "linear", *arguments)
        check(f"gcloud ai endpoints {verb}", done.returncode == 0 and wanted in done.stdout, (done.stdout + done.stderr)[-200:])


def main():
    binary = sys.argv[1] if len(sys.argv) > 1 else REPOSITORY / "target/debug/tessera"
    check = Checks()
    grpc_port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        models = scratch / "models"
        models.mkdir()
        for name in MODELS:
            (models / name).symlink_to(REPOSITORY / "tests/models" / name)
        with server(binary, grpc_port, models, "--default-endpoint", "linear") as port:
            options = {"api_endpoint": f"http://127.0.0.1:{port}"}
            rest = aiplatform_v1.PredictionServiceClient(
                transport="rest", credentials=AnonymousCredentials(), client_options=options
            )
            both(rest, check, "REST")
            channel = grpc.insecure_channel(f"127.0.0.1:{grpc_port}")
            transport = transports.PredictionServiceGrpcTransport(channel=channel)
            client = aiplatform_v1.PredictionServiceClient(transport=transport)
            both(client, check, "gRPC")
            streams(client, check)
            asyncio.run(asynchronous(f"127.0.0.1:{grpc_port}", check))
            channel.close()
            beta = aiplatform_v1beta1.PredictionServiceClient(
                transport="rest", credentials=AnonymousCredentials(), client_options=options
            )
            check("v1beta1 over REST", len(beta.explain(endpoint=LINEAR, instances=[json_format.ParseDict(ROWS[0], Value())]).explanations) == 1)
            high_level(port, check)
            container(port, check)
            if shutil.which("gcloud"):
                gcloud(port, check, scratch)
            else:
                print("skipped: gcloud is not installed")
    print(f"{check.passed} passed, {check.failed} failed")
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(main())
