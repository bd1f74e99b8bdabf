#!/usr/bin/env python3
"""Ask a Tessera server with the published clients of KServe and Triton, over REST and gRPC.

    tests/clients/neighbours.py target/debug/tessera

Starts the server on free ports with the repository's models and some of tests/models, and drives `kserve` (its first and
second protocol) and `tritonclient` (with its binary extension, and a stream). Each of them brings the messages of the
same protobuf package, so that they can't share a process: each has one of its own.
"""

import asyncio
import contextlib
import queue
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy

from harness import REPOSITORY, Checks, free_port, server

MODELS = ["models/imagenet"] + [f"tests/models/{name}" for name in (
    "linear", "columns", "echo-float16", "echo-bool", "echo-int64", "echo-string", "classes")]
CAT = (REPOSITORY / "examples" / "cat.jpg").read_bytes()
ROWS = numpy.array([[1, 2, 3, 4], [0.5, 0, 0, 0]], dtype=numpy.float32)
EXPECTED = [[30.5], [1.0]]


@contextlib.contextmanager
def serving(binary):
    """A server of some models; gives its ports."""
    grpc_port = free_port()
    with tempfile.TemporaryDirectory() as models:
        for model in MODELS:
            (Path(models) / Path(model).name).symlink_to(REPOSITORY / model)
        with server(binary, grpc_port, models) as port:
            yield port, grpc_port


def kserve_request(values, binary=True):
    from kserve import InferInput, InferRequest

    tensor = InferInput("x", list(values.shape), "FP32")
    tensor.set_data_from_numpy(values, binary_data=binary)
    return InferRequest(model_name="linear", infer_inputs=[tensor], request_id="7")


async def run_kserve(port, grpc_port, check):
    from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

    url = f"http://127.0.0.1:{port}"
    async with InferenceRESTClient(RESTConfig(protocol="v1")) as first:
        check("kserve v1: the server lives", await first.is_server_live(url))
        check("kserve v1: a model is ready", await first.is_model_ready(url, "linear"))
        answer = await first.infer(url, {"instances": ROWS.tolist()}, model_name="linear")
        check("kserve v1: predict", answer == {"predictions": EXPECTED}, answer)
        try:
            await first.infer(url, {"instances": [[1]]}, model_name="linear")
            check("kserve v1: an error", False, "it did not fail")
        except Exception as error:
            check("kserve v1: an error", "instances[0] has 1 elements" in str(error), str(error)[:100])
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as second:
        check("kserve v2: the server lives and is ready", await second.is_server_live(url) and await second.is_server_ready(url))
        check("kserve v2: a model is ready", await second.is_model_ready(url, "linear"))
        for binary in (True, False):
            answer = await second.infer(url, kserve_request(ROWS, binary), model_name="linear")
            got = answer.outputs[0].as_numpy().tolist()
            check(f"kserve v2: infer, binary input {binary}", got == EXPECTED and answer.id == "7", got)
    async with InferenceGRPCClient(f"127.0.0.1:{grpc_port}") as grpc:
        check("kserve gRPC: server and model are ready", await grpc.is_server_ready() and await grpc.is_model_ready("linear"))
        answer = await grpc.infer(kserve_request(ROWS))
        check("kserve gRPC: infer", answer.outputs[0].as_numpy().tolist() == EXPECTED, answer.outputs[0].as_numpy().tolist())
        # float32 in its own list instead of bytes.
        request = InferRequest(model_name="linear", infer_inputs=[InferInput("x", [2, 4], "FP32", data=ROWS.flatten().tolist())])
        answer = await grpc.infer(request)
        check("kserve gRPC: infer with typed contents", answer.outputs[0].as_numpy().tolist() == EXPECTED)


def triton_input(module, name, values, datatype, **options):
    tensor = module.InferInput(name, list(values.shape), datatype)
    tensor.set_data_from_numpy(values, **options)
    return tensor


def run_triton(module, client, what, check):
    """What both transports do."""
    from tritonclient.utils import InferenceServerException

    check(f"{what}: live, ready", client.is_server_live() and client.is_server_ready() and client.is_model_ready("linear", "1"))
    answer = client.infer("linear", [triton_input(module, "x", ROWS, "FP32")], request_id="9")
    check(f"{what}: infer", answer.as_numpy("y").tolist() == EXPECTED, answer.as_numpy("y").tolist())
    for model, datatype, values in (
        ("echo-float16", "FP16", numpy.array([[1.5, -2]], dtype=numpy.float16)),
        ("echo-bool", "BOOL", numpy.array([[True, False]])),
        ("echo-int64", "INT64", numpy.array([[2**62, -1]])),
        ("echo-string", "BYTES", numpy.array([["cat", "søt"]], dtype=object)),
    ):
        answer = client.infer(model, [triton_input(module, "x", values, datatype)]).as_numpy("y")
        expected = [[text.encode() for text in row] for row in values.tolist()] if datatype == "BYTES" else values.tolist()
        check(f"{what}: {datatype}", answer.tolist() == expected, answer.tolist())
    inputs = [
        triton_input(module, "age", numpy.array([[39], [41]], dtype=numpy.float32), "FP32"),
        triton_input(module, "city", numpy.array([["Oslo"], ["Rome"]], dtype=object), "BYTES"),
    ]
    answer = client.infer("columns", inputs)
    name = answer.get_response()["outputs"][0]["name"] if isinstance(answer.get_response(), dict) else answer.get_response().outputs[0].name
    check(f"{what}: several inputs", answer.as_numpy(name).tolist() == [[1039.0], [2041.0]], answer.as_numpy(name).tolist())
    pictures = numpy.array([CAT, CAT], dtype=object)
    outputs = [module.InferRequestedOutput("label"), module.InferRequestedOutput("score")]
    answer = client.infer("imagenet", [triton_input(module, "image", pictures, "BYTES")], outputs=outputs)
    check(f"{what}: pictures", answer.as_numpy("label").tolist() == [[b"Egyptian cat"]] * 2, answer.as_numpy("score").tolist())
    requested = [module.InferRequestedOutput("probabilities", class_count=1)]
    values = numpy.array([[0, 10]], dtype=numpy.float32)
    answer = client.infer("classes", [triton_input(module, "x", values, "FP32")], outputs=requested)
    check(f"{what}: classification", answer.as_numpy("probabilities").tolist()[0][0].endswith(b":1"), answer.as_numpy("probabilities").tolist())
    try:
        client.infer("linear", [triton_input(module, "x", ROWS.astype(numpy.float64), "FP64")])
        check(f"{what}: an error", False, "it did not fail")
    except InferenceServerException as error:
        check(f"{what}: an error", "the model takes x float32[?,4]" in str(error), str(error)[:120])


def run_triton_http(port, check):
    import tritonclient.http
    from tritonclient.utils import InferenceServerException

    client = tritonclient.http.InferenceServerClient(f"127.0.0.1:{port}")
    check("triton http: metadata", client.get_model_metadata("linear")["inputs"][0]["shape"] == [-1, 4])
    check("triton http: config", client.get_model_config("linear")["input"][0]["data_type"] == "TYPE_FP32")
    check("triton http: repository", len(client.get_model_repository_index()) == len(MODELS))
    run_triton(tritonclient.http, client, "triton http", check)
    statistics = client.get_inference_statistics("linear")["model_stats"][0]
    check("triton http: statistics", statistics["inference_count"] >= 2, statistics["inference_count"])
    text = triton_input(tritonclient.http, "x", ROWS, "FP32", binary_data=False)
    answer = client.infer("linear", [text], outputs=[tritonclient.http.InferRequestedOutput("y", binary_data=False)])
    check("triton http: JSON instead of bytes", answer.as_numpy("y").tolist() == EXPECTED)
    answer = client.infer("linear", [triton_input(tritonclient.http, "x", ROWS, "FP32")], request_compression_algorithm="gzip")
    check("triton http: a compressed request", answer.as_numpy("y").tolist() == EXPECTED)
    try:
        client.load_model("linear")
        check("triton http: loading is refused", False)
    except InferenceServerException as error:
        check("triton http: loading is refused", "come from the settings" in str(error), error.status())
    client.close()


def run_triton_grpc(port, grpc_port, check):
    import tritonclient.grpc

    client = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{grpc_port}")
    check("triton grpc: server", client.get_server_metadata().name == "tessera")
    check("triton grpc: metadata", list(client.get_model_metadata("linear").inputs[0].shape) == [-1, 4])
    check("triton grpc: config", client.get_model_config("linear", as_json=True)["config"]["input"][0]["data_type"] == "TYPE_FP32")
    check("triton grpc: repository", len(client.get_model_repository_index().models) == len(MODELS))
    run_triton(tritonclient.grpc, client, "triton grpc", check)
    check("triton grpc: statistics", client.get_inference_statistics("linear").model_stats[0].inference_count >= 2)
    answers = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    for index in range(20):
        rows = ROWS if index != 7 else ROWS[:, :2]
        client.async_stream_infer("linear", [triton_input(tritonclient.grpc, "x", rows, "FP32")], request_id=str(index))
    got = [answers.get(timeout=30) for _ in range(20)]
    client.stop_stream()
    good = [result.get_response().id for result, error in got if error is None]
    check("triton grpc: a stream keeps its order", good == [str(index) for index in range(20) if index != 7], good)
    check("triton grpc: a bad request doesn't end it", got[7][1] is not None and "float32[2, 2]" in str(got[7][1]), str(got[7][1])[:100])
    client.close()
    # The same service beside HTTP/1.1 on the API's port.
    client = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{port}")
    check("triton grpc on the API's port", client.is_model_ready("linear"))
    client.close()


def run(client, port, grpc_port):
    """All checks of one client; whether they held."""
    check = Checks()
    if client == "kserve":
        asyncio.run(run_kserve(port, grpc_port, check))
    else:
        run_triton_http(port, check)
        run_triton_grpc(port, grpc_port, check)
    print(f"{client}: {check.passed} passed, {check.failed} failed")
    return check.failed == 0


def main():
    if sys.argv[1:2] == ["--client"]:
        client, port, grpc_port = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
        return 0 if run(client, port, grpc_port) else 1
    binary = sys.argv[1] if len(sys.argv) > 1 else REPOSITORY / "target/debug/tessera"
    with serving(binary) as (port, grpc_port):
        commands = [[sys.executable, __file__, "--client", client, str(port), str(grpc_port)] for client in ("kserve", "tritonclient")]
        return max([subprocess.run(command, timeout=300).returncode for command in commands])


if __name__ == "__main__":
    sys.exit(main())
