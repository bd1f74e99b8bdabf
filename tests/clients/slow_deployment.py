#!/usr/bin/env python3
"""A deployment whose download takes longer than its answer, as Google's clients see it: they poll, and read how far it is.

    tests/clients/slow_deployment.py target/debug/tessera
"""

import contextlib
import sys
import tempfile
import threading
import time
import urllib.request

import grpc
from google.cloud import aiplatform_v1, aiplatform_v1beta1

from artifacts import MODEL, Proxy, fake_gcs
from management import PARENT, ROWS, grpc_clients, rest_clients, values
from harness import REPOSITORY, Checks, free_port, server

# At 8 MiB a second: longer than the 15 seconds for which an answer waits.
LARGE = 200 << 20


def deploy(name, clients, check):
    models, endpoints, predictions = clients
    folder = name.replace(" ", "-")
    asked = {"display_name": name, "artifact_uri": f"gs://models-bucket/{folder}"}
    model = models.upload_model(parent=PARENT, model=asked).result(timeout=60).model
    endpoint = endpoints.create_endpoint(parent=PARENT, endpoint={"display_name": name}).result(timeout=60).name
    # v1beta1's clients give up after five seconds.
    soonest, latest = (3, 5) if "beta" in name else (13, 30)
    begin = time.time()
    operation = endpoints.deploy_model(endpoint=endpoint, deployed_model={"model": model}, traffic_split={"0": 100})
    check(f"{name}: the answer comes first", soonest < time.time() - begin < latest, f"{time.time() - begin:.1f} s")
    metadata = operation.metadata
    check(f"{name}: with the stage", metadata.deployment_stage.name == "PREPARING_MODEL", metadata.deployment_stage.name)
    told = metadata.generic_metadata.partial_failures
    check(f"{name}: and the progress", len(told) == 1 and told[0].code == 0 and " of 200.0 MiB (" in told[0].message, told)
    # REST's client refuses what it doesn't know.
    deployed = operation.result(timeout=120).deployed_model
    check(f"{name}: then it is done", operation.metadata.deployment_stage.name == "SUCCESSFULLY_DEPLOYED", deployed.id)
    check(f"{name}: and tells of no progress any more", not operation.metadata.generic_metadata.partial_failures)
    answer = predictions.predict(endpoint=endpoint, instances=values(ROWS))
    check(f"{name}: it predicts", answer.deployed_model_id == deployed.id and len(answer.predictions) == len(ROWS))


def main():
    binary = sys.argv[1] if len(sys.argv) > 1 else REPOSITORY / "target/debug/tessera"
    check = Checks()
    with tempfile.TemporaryDirectory() as scratch, fake_gcs() as (port, url):
        create = urllib.request.Request(f"{url}/storage/v1/b?project=p", b'{"name":"models-bucket"}', {"Content-Type": "application/json"})
        urllib.request.urlopen(create).read()
        for folder in ["REST", "gRPC-v1beta1"]:
            for name, data in [("model.onnx", MODEL.read_bytes()), ("large.bin", bytes(LARGE))]:
                target = f"{url}/upload/storage/v1/b/models-bucket/o?uploadType=media&name={folder}/{name}"
                urllib.request.urlopen(urllib.request.Request(target, data, {"Content-Type": "application/octet-stream"})).read()
        proxy = Proxy(port)
        proxy.fault = lambda handler: "slow" if "large.bin" in handler.path and "alt=media" in handler.path else None
        settings = {"STORAGE_EMULATOR_HOST": proxy.url, "TESSERA__ARTIFACTS__DIRECTORY": scratch}
        grpc_port = free_port()
        with server(binary, grpc_port, settings=settings) as http_port, contextlib.closing(grpc.insecure_channel(f"127.0.0.1:{grpc_port}")) as channel:
            sides = [
                ("REST", rest_clients(aiplatform_v1, http_port)),
                ("gRPC v1beta1", grpc_clients(aiplatform_v1beta1, "aiplatform_v1beta1", channel)),
            ]
            threads = [threading.Thread(target=deploy, args=(name, clients, check)) for name, clients in sides]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    check("both came to their end", check.passed + check.failed == 12, check.passed + check.failed)
    print(f"{check.passed} passed, {check.failed} failed")
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(main())
