#!/usr/bin/env python3
"""Ask a Tessera server with Google's unmodified client library, as a program on Vertex AI would.

    tests/clients/predict.py target/debug/tessera

Starts the server on a free port with the repository's models, and drives `PredictionServiceClient` over REST:
predictions, parameters, the fields of the answer, and errors as the exceptions that callers catch. Then the same
with the high-level `aiplatform.Endpoint`.
"""

import base64
import sys

from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import aiplatform
from google.cloud.aiplatform_v1 import PredictionServiceClient
from google.cloud.aiplatform_v1.services.prediction_service.transports import PredictionServiceRestTransport

from harness import PARENT, REPOSITORY, Checks, server


def run(client, check):
    cat = {"b64": base64.b64encode((REPOSITORY / "examples" / "cat.jpg").read_bytes()).decode()}
    coffee = {"b64": base64.b64encode((REPOSITORY / "examples" / "coffee.jpg").read_bytes()).decode()}
    imagenet = f"{PARENT}/imagenet"

    answer = client.predict(endpoint=imagenet, instances=[cat, coffee])
    labels = [dict(prediction)["label"] for prediction in answer.predictions]
    check("two pictures, in their order", labels == ["Egyptian cat", "espresso"], labels)
    check("the deployed model's id is digits", answer.deployed_model_id.isdigit(), answer.deployed_model_id)
    check("the model is named", answer.model_display_name == "imagenet" and answer.model_version_id == "1", answer.model)

    top = dict(client.predict(endpoint=imagenet, instances=[cat], parameters={"top_k": 3}).predictions[0])
    confidences = list(top["confidences"])
    check("top_k gives so many labels", len(top["labels"]) == 3 and top["labels"][0] == "Egyptian cat", list(top["labels"]))
    check("and their confidences, descending", confidences == sorted(confidences, reverse=True), confidences)

    check.raises("text is no picture", exceptions.BadRequest, lambda: client.predict(endpoint=imagenet, instances=[{"b64": "bm8="}]))
    check.raises("top_k 0", exceptions.BadRequest, lambda: client.predict(endpoint=imagenet, instances=[cat], parameters={"top_k": 0}))
    check.raises("no such endpoint", exceptions.NotFound, lambda: client.predict(endpoint=f"{PARENT}/none", instances=[cat]))


def run_high_level(port, check):
    """The SDK as most teams use it: nothing but `init` tells that this isn't Google Cloud."""
    cat = {"b64": base64.b64encode((REPOSITORY / "examples" / "cat.jpg").read_bytes()).decode()}
    aiplatform.init(
        project="local-project", location="us-central1", api_endpoint=f"http://127.0.0.1:{port}",
        api_transport="rest", credentials=AnonymousCredentials(),
    )
    endpoint = aiplatform.Endpoint("imagenet")
    for turn in ("first", "second"):
        answer = endpoint.predict(instances=[cat])
        check(f"aiplatform.Endpoint, {turn} prediction", answer.predictions[0]["label"] == "Egyptian cat", answer.predictions)
    check("it knows who answered", answer.deployed_model_id.isdigit() and answer.model_version_id == "1", answer.model_resource_name)


def main():
    binary = sys.argv[1] if len(sys.argv) > 1 else REPOSITORY / "target/debug/tessera"
    check = Checks()
    with server(binary) as port:
        transport = PredictionServiceRestTransport(
            host=f"127.0.0.1:{port}", url_scheme="http", credentials=AnonymousCredentials()
        )
        run(PredictionServiceClient(transport=transport), check)
        run_high_level(port, check)
    print(f"{check.passed} passed, {check.failed} failed")
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(main())
