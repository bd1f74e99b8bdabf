#!/usr/bin/env python3
"""Dedicated and private endpoints by Google's high-level SDK, over TLS and with a token, unchanged.

    tests/clients/dedicated.py target/debug/tessera

Dedicated endpoints are asked at the `dedicatedEndpointDns` that the server names, private ones at the addresses of their
deployed model.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import google.oauth2.credentials
import grpc
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import RefreshError
from google.cloud import aiplatform, aiplatform_v1

from management import grpc_clients
from harness import REPOSITORY, Checks
from tls import Authority, Server

ROWS = [[1, 2, 3, 4], [5, 6, 7, 8]]
ANSWERS = [[30.5], [70.5]]
JSON = {"Content-Type": "application/json"}
BODY = json.dumps({"instances": ROWS}).encode()


def start_sdk(server, credentials):
    aiplatform.init(
        project="my-project", location="us-central1", api_endpoint=f"https://localhost:{server.https}", api_transport="rest",
        credentials=credentials,
    )


def upload(**more):
    return aiplatform.Model.upload(
        display_name="toy", artifact_uri="gs://local-bucket/linear/1", serving_container_image_uri="local/server:latest", **more
    )


def dedicated(server, check, who):
    model = upload()
    endpoint = aiplatform.Endpoint.create(display_name="dedicated", dedicated_endpoint_enabled=True)
    check(f"{who}: dedicatedEndpointDns", endpoint.dedicated_endpoint_dns == f"localhost:{server.https}", endpoint.dedicated_endpoint_dns)
    model.deploy(endpoint=endpoint, machine_type="n1-standard-4", traffic_percentage=100)
    # As another program would find it.
    endpoint = aiplatform.Endpoint(endpoint.resource_name)
    for given in (True, False):
        answer = endpoint.predict(instances=ROWS, use_dedicated_endpoint=given)
        check(f"{who}: predict(use_dedicated_endpoint={given})", answer.predictions == ANSWERS and answer.model_version_id == "1", answer)
        response = endpoint.raw_predict(body=BODY, headers=JSON, use_dedicated_endpoint=given)
        check(f"{who}: raw_predict(use_dedicated_endpoint={given})", response.status_code == 200 and response.json()["predictions"] == ANSWERS, response.text[:200])
        named = {name.lower() for name in response.headers}
        check("with Vertex AI's headers", {"x-vertex-ai-endpoint-id", "x-vertex-ai-deployed-model-id"} <= named, sorted(named))
        lines = list(endpoint.stream_raw_predict(body=BODY, headers=JSON, use_dedicated_endpoint=given))
        check(f"{who}: stream_raw_predict(use_dedicated_endpoint={given})", json.loads(b"".join(lines))["predictions"] == ANSWERS, lines)
    response = endpoint.raw_predict(body=b'{"instances": []}', headers=JSON, use_dedicated_endpoint=True)
    check(f"{who}: an error of raw_predict", response.status_code == 400 and "instances" in response.json()["error"]["message"], response.text[:200])

    other = upload(serving_container_invoke_route_prefix="/*")
    asked = aiplatform.Endpoint.create(display_name="invoked", dedicated_endpoint_enabled=True)
    other.deploy(endpoint=asked, machine_type="n1-standard-4")
    response = asked.invoke("/predict", BODY, JSON)
    check(f"{who}: invoke", response.status_code == 200 and response.json()["predictions"] == ANSWERS, response.text[:200])
    for one in (endpoint, asked):
        one.delete(force=True)
    for one in (model, other):
        one.delete()


def private(server, check):
    """With the scheme and the port by which the endpoint was asked for."""
    model = upload()
    endpoint = aiplatform.PrivateEndpoint.create(display_name="private", network="projects/123/global/networks/default")
    endpoint.deploy(model=model, machine_type="n1-standard-4")
    here = f"https://localhost:{server.https}/v1/endpoints/{endpoint.name}/deployedModels/"
    check("private: predictHttpUri", endpoint.predict_http_uri.startswith(here) and endpoint.predict_http_uri.endswith(":predict"), endpoint.predict_http_uri)
    check("private: healthHttpUri", endpoint.health_http_uri.startswith(here), endpoint.health_http_uri)
    check("private: predict", endpoint.predict(instances=ROWS).predictions == ANSWERS)
    response = endpoint.raw_predict(body=BODY, headers=JSON)
    check("private: raw_predict", json.loads(response.data)["predictions"] == ANSWERS)
    check("private: health_check", endpoint.health_check())
    name = endpoint.resource_name
    roots = Path(os.environ["REQUESTS_CA_BUNDLE"]).read_bytes()
    secure = grpc.secure_channel(f"localhost:{server.grpcs}", grpc.ssl_channel_credentials(roots))
    plain = grpc.insecure_channel(f"localhost:{server.grpc}")
    for what, channel, base in [("by TLS", secure, f"https://localhost:{server.https}"), ("without", plain, f"http://localhost:{server.port}")]:
        shown = grpc_clients(aiplatform_v1, "aiplatform_v1", channel)[1].get_endpoint(name=name)
        uri = shown.deployed_models[0].private_endpoints.predict_http_uri
        check(f"private: over gRPC {what}", uri.startswith(f"{base}/v1/endpoints/"), uri)
        channel.close()
    endpoint.undeploy_all()
    endpoint.delete()
    model.delete()


def main():
    binary = Path(sys.argv[1] if len(sys.argv) > 1 else REPOSITORY / "target/debug/tessera").resolve()
    check = Checks()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        authority = Authority(folder)
        certificate, key, _ = authority.issue("server")
        os.environ["REQUESTS_CA_BUNDLE"] = str(authority.path)
        settings = {
            "TLS__CERTIFICATE": certificate, "TLS__KEY": key,
            "ARTIFACTS__MAP": f'{{ "gs://local-bucket" = "{REPOSITORY / "tests/models"}" }}',
        }
        with Server(binary, folder, settings) as server:
            start_sdk(server, AnonymousCredentials())
            dedicated(server, check, "anonymous")
            private(server, check)
        with Server(binary, folder, settings | {"AUTH__TOKENS": "the-only-token"}) as server:
            start_sdk(server, google.oauth2.credentials.Credentials(token="the-only-token"))
            dedicated(server, check, "with a token")
            start_sdk(server, google.oauth2.credentials.Credentials(token="another-token"))
            # It takes the 401 for an expired token, which it can't renew.
            check.raises("another token is refused", RefreshError, lambda: aiplatform.Endpoint.list())
    print(f"{check.passed} passed, {check.failed} failed")
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(main())
