#!/usr/bin/env python3
"""Upload, create, deploy, predict and clean up with Google's unmodified clients, as a program on Vertex AI would.

    tests/clients/management.py target/debug/tessera

The four steps with the low-level service clients over REST and over gRPC, in both versions of the API; then the
high-level SDK over REST: versions, aliases, a traffic split that it computes itself, updates, private endpoints.
"""

import contextlib
import shutil
import sys
import tempfile
from pathlib import Path

import grpc
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import aiplatform, aiplatform_v1, aiplatform_v1beta1
from google.protobuf import field_mask_pb2, json_format
from google.protobuf.struct_pb2 import Value

from harness import REPOSITORY, Checks, free_port, server

PARENT = "projects/my-project/locations/us-central1"
LINEAR = REPOSITORY / "tests/models/linear/1"
ROWS = [[1, 2, 3, 4], [5, 6, 7, 8]]
ANSWERS = [[30.5], [70.5]]


def values(rows):
    return [json_format.ParseDict(row, Value()) for row in rows]


def rest_clients(api, port):
    options = {"api_endpoint": f"http://127.0.0.1:{port}"}
    make = {"transport": "rest", "credentials": AnonymousCredentials(), "client_options": options}
    return [getattr(api, name)(**make) for name in ("ModelServiceClient", "EndpointServiceClient", "PredictionServiceClient")]


def grpc_clients(api, package, channel):
    clients = []
    for service, client in [("model", "ModelService"), ("endpoint", "EndpointService"), ("prediction", "PredictionService")]:
        module = __import__(f"google.cloud.{package}.services.{service}_service.transports", fromlist=["x"])
        transport = getattr(module, f"{client}GrpcTransport")(channel=channel)
        clients.append(getattr(api, f"{client}Client")(transport=transport))
    return clients


def four_steps(name, api, clients, check):
    models, endpoints, predictions = clients
    asked = {"display_name": "Toy", "artifact_uri": str(LINEAR), "container_spec": {"image_uri": "local/server:latest"}}
    model = models.upload_model(parent=PARENT, model=asked).result(timeout=60).model
    check(f"{name}: upload_model", model.startswith(f"{PARENT}/models/"), model)
    endpoint = endpoints.create_endpoint(parent=PARENT, endpoint={"display_name": "Toy"}).result(timeout=60).name
    check(f"{name}: create_endpoint", endpoint.startswith(f"{PARENT}/endpoints/"), endpoint)
    machine = {"machine_type": "n1-standard-8", "accelerator_type": api.AcceleratorType.NVIDIA_TESLA_T4, "accelerator_count": 1}
    resources = {"min_replica_count": 1, "max_replica_count": 1, "machine_spec": machine}
    deployed = {"model": model, "display_name": "first", "dedicated_resources": resources}
    operation = endpoints.deploy_model(endpoint=endpoint, deployed_model=deployed, traffic_split={"0": 100})
    check(f"{name}: deploy_model is done at once", operation.done())
    first = operation.result(timeout=60).deployed_model
    check(f"{name}: what was asked for comes back", first.dedicated_resources.machine_spec.accelerator_count == 1, first.id)
    check(f"{name}: the metadata tell the stage", operation.metadata.deployment_stage.name == "SUCCESSFULLY_DEPLOYED")
    shown = endpoints.get_endpoint(name=endpoint)
    check(f"{name}: get_endpoint", dict(shown.traffic_split) == {first.id: 100}, dict(shown.traffic_split))
    answer = predictions.predict(endpoint=endpoint, instances=values(ROWS))
    check(f"{name}: predict", [list(row) for row in answer.predictions] == ANSWERS and answer.deployed_model_id == first.id)

    second = endpoints.deploy_model(endpoint=endpoint, deployed_model={"model": model}).result(timeout=60).deployed_model
    mask = field_mask_pb2.FieldMask(paths=["traffic_split", "labels"])
    change = {"name": endpoint, "traffic_split": {first.id: 50, second.id: 50}, "labels": {"team": "a"}}
    changed = endpoints.update_endpoint(endpoint=change, update_mask=mask)
    check(f"{name}: update_endpoint", dict(changed.traffic_split) == change["traffic_split"] and changed.display_name == "Toy")
    mask = field_mask_pb2.FieldMask(paths=["dedicated_resources.max_replica_count"])
    resources = {"max_replica_count": 3, "machine_spec": machine}
    mutated = endpoints.mutate_deployed_model(
        endpoint=endpoint, deployed_model={"id": first.id, "dedicated_resources": resources}, update_mask=mask
    ).result(timeout=60)
    check(f"{name}: mutate_deployed_model", mutated.deployed_model.dedicated_resources.max_replica_count == 3)
    answers = {predictions.predict(endpoint=endpoint, instances=values(ROWS)).deployed_model_id for _ in range(4)}
    check(f"{name}: both get traffic", answers == {first.id, second.id}, answers)
    request = {"parent": PARENT, "filter": 'labels.team=a AND display_name="Toy"', "page_size": 1}
    listed = [item.name for item in endpoints.list_endpoints(request=request)]
    check(f"{name}: list_endpoints with a filter", listed == [endpoint], listed)
    check(f"{name}: list_models, page by page", model in [item.name for item in models.list_models(request={"parent": PARENT, "page_size": 1})])

    precondition = exceptions.BadRequest if "REST" in name else exceptions.FailedPrecondition
    check.raises(f"{name}: an endpoint with models stays", precondition, lambda: endpoints.delete_endpoint(name=endpoint))
    check.raises(f"{name}: a deployed model stays", precondition, lambda: models.delete_model(name=model))
    missing = models.upload_model(parent=PARENT, model={"display_name": "None", "artifact_uri": "/there/is/nothing"}).result().model
    operation = endpoints.deploy_model(endpoint=endpoint, deployed_model={"model": missing}, traffic_split={"0": 100})
    error = operation.exception(timeout=60)
    check(f"{name}: a deployment that fails says why", "/there/is/nothing" in str(error), error)
    endpoints.undeploy_model(endpoint=endpoint, deployed_model_id=first.id, traffic_split={second.id: 100}).result(timeout=60)
    endpoints.undeploy_model(endpoint=endpoint, deployed_model_id=second.id).result(timeout=60)
    endpoints.delete_endpoint(name=endpoint).result(timeout=60)
    for one in (model, missing):
        models.delete_model(name=one).result(timeout=60)
    check.raises(f"{name}: what is deleted is gone", exceptions.NotFound, lambda: endpoints.get_endpoint(name=endpoint))


def sessions(channel, rest, check):
    """A session's requests stay with one deployed model, over REST as over gRPC."""
    models, endpoints, predictions = grpc_clients(aiplatform_v1, "aiplatform_v1", channel)
    model = models.upload_model(parent=PARENT, model={"display_name": "S", "artifact_uri": str(LINEAR)}).result().model
    endpoint = endpoints.create_endpoint(parent=PARENT, endpoint={"display_name": "S"}).result().name
    first = endpoints.deploy_model(endpoint=endpoint, deployed_model={"model": model}, traffic_split={"0": 100}).result().deployed_model
    endpoints.deploy_model(endpoint=endpoint, deployed_model={"model": model}, traffic_split={"0": 50, first.id: 50}).result()

    def answers(client, session):
        metadata = [("x-tessera-session", session)]
        return {client.predict(endpoint=endpoint, instances=values(ROWS), metadata=metadata).deployed_model_id for _ in range(6)}

    homes = [answers(predictions, f"user-{number}") | answers(rest, f"user-{number}") for number in range(10)]
    check("sessions stay, by whatever transport", all(len(home) == 1 for home in homes) and len(set.union(*homes)) == 2, homes)


def high_level(port, check):
    aiplatform.init(
        project="my-project", location="us-central1", api_endpoint=f"http://127.0.0.1:{port}",
        api_transport="rest", credentials=AnonymousCredentials(),
    )
    make = {"artifact_uri": "gs://local-bucket/linear/1", "serving_container_image_uri": "local/server:latest"}
    model = aiplatform.Model.upload(display_name="toy", serving_container_ports=[8080], labels={"team": "b"}, **make)
    check("SDK: Model.upload", model.version_id == "1" and model.version_aliases == ["default"], model.resource_name)
    canary = aiplatform.Model.upload(
        display_name="toy", parent_model=model.resource_name, is_default_version=False, version_aliases=["canary"], **make
    )
    versions = {version.version_id: list(version.version_aliases) for version in model.versioning_registry.list_versions()}
    check("SDK: a second version", versions == {"1": ["default"], "2": ["canary"]}, versions)
    check("SDK: by alias", aiplatform.Model(f"{model.resource_name}@canary").version_id == "2")
    model.versioning_registry.add_version_aliases(["golden"], "2")
    check("SDK: an alias more", sorted(aiplatform.Model(model.resource_name, version="2").version_aliases) == ["canary", "golden"])
    check("SDK: Model.list", [found.name for found in aiplatform.Model.list(filter="labels.team=b")] == [model.name])

    endpoint = aiplatform.Endpoint.create(display_name="toy", endpoint_id="toy-endpoint")
    check("SDK: Endpoint.create with an id", endpoint.name == "toy-endpoint", endpoint.resource_name)
    model.deploy(endpoint=endpoint, machine_type="n1-standard-4", deployed_model_display_name="v1", traffic_split={"0": 100})
    endpoint.deploy(model=canary, machine_type="n1-standard-4", deployed_model_display_name="v2", traffic_percentage=20)
    check("SDK: traffic_percentage scales the others", sorted(endpoint.traffic_split.values()) == [20, 80], endpoint.traffic_split)
    served = [endpoint.predict(instances=ROWS) for _ in range(10)]
    check("SDK: predict", all(answer.predictions == ANSWERS for answer in served))
    check("SDK: ten requests, two of them to the canary", sorted(a.model_version_id for a in served) == ["1"] * 8 + ["2"] * 2)
    ids = [deployed.id for deployed in endpoint.list_models()]
    endpoint.update(traffic_split={identity: 50 for identity in ids}, display_name="both")
    check("SDK: update", endpoint.display_name == "both" and set(endpoint.traffic_split.values()) == {50}, endpoint.traffic_split)
    endpoint.undeploy(deployed_model_id=ids[1])
    check("SDK: undeploy gives its share to the other", endpoint.traffic_split == {ids[0]: 100}, endpoint.traffic_split)
    endpoint.delete(force=True)
    check("SDK: delete(force=True)", [found.name for found in aiplatform.Endpoint.list(filter="display_name=both")] == [])

    private = aiplatform.PrivateEndpoint.create(display_name="private", network="projects/123/global/networks/default")
    private.deploy(model=model, machine_type="n1-standard-4")
    answer = private.predict(instances=ROWS)
    check("SDK: PrivateEndpoint.predict", answer.predictions == ANSWERS)
    check("SDK: PrivateEndpoint.health_check", private.health_check())
    private.undeploy_all()
    private.delete()
    model.delete()
    check.raises("SDK: the model is gone", exceptions.NotFound, lambda: aiplatform.Model(model.resource_name))


def main():
    binary = sys.argv[1] if len(sys.argv) > 1 else REPOSITORY / "target/debug/tessera"
    check = Checks()
    folder = Path(tempfile.mkdtemp())
    # What the SDK takes for a bucket is a folder here.
    settings = {
        "TESSERA__ARTIFACTS__MAP": f'{{ "gs://local-bucket" = "{REPOSITORY / "tests/models"}" }}',
        "TESSERA__STATE__DIRECTORY": str(folder / "state"),
    }
    grpc_port = free_port()
    try:
        with server(binary, grpc_port, settings=settings) as port:
            with contextlib.closing(grpc.insecure_channel(f"127.0.0.1:{grpc_port}")) as channel:
                for name, api in [("aiplatform_v1", aiplatform_v1), ("aiplatform_v1beta1", aiplatform_v1beta1)]:
                    four_steps(f"REST {name}", api, rest_clients(api, port), check)
                    four_steps(f"gRPC {name}", api, grpc_clients(api, name, channel), check)
                sessions(channel, rest_clients(aiplatform_v1, port)[2], check)
            high_level(port, check)
    finally:
        shutil.rmtree(folder)
    print(f"{check.passed} passed, {check.failed} failed")
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(main())
