#!/usr/bin/env python3
"""What tokens with a role, and tokens for some endpoints, may do in management: the same over REST and gRPC.

    tests/clients/permissions.py target/debug/tessera
"""

import contextlib
import sys
import tempfile
from pathlib import Path

import grpc
from google.api_core import exceptions
from google.cloud import aiplatform_v1
from google.longrunning import operations_pb2
from google.protobuf import field_mask_pb2

from management import LINEAR, PARENT, grpc_clients, rest_clients, values
from harness import REPOSITORY, Checks
from tls import Server

TOKENS = """
[[token]]
name = "team"
token = "token-of-the-team"
endpoints = ["shop", "shop-new"]
[[token]]
name = "till"
token = "token-of-the-till"
role = "predict"
endpoints = ["shop"]
[[token]]
name = "operator"
token = "token-of-the-operator"
role = "manage"
[[token]]
name = "root"
token = "token-of-everything"
"""
ROOT, TEAM, TILL, OPERATOR = (
    [("authorization", f"Bearer token-of-{who}")] for who in ("everything", "the-team", "the-till", "the-operator")
)
ENDPOINTS = f"{PARENT}/endpoints"
# The names of a path are whatever a client writes there; only the endpoint's counts.
TRICK = "projects/shop/locations/shop"


def prepare(clients):
    """The endpoints shop and secret; a model that is on both, and one that is on secret only."""
    models, endpoints, _ = clients
    upload = lambda name: models.upload_model(
        request={"parent": PARENT, "model_id": name, "model": {"display_name": name, "artifact_uri": str(LINEAR)}}, metadata=ROOT
    ).result(timeout=60).model
    shared, hidden = upload("shared"), upload("hidden")
    for name, deployed in [("shop", [shared]), ("secret", [shared, hidden])]:
        request = {"parent": PARENT, "endpoint_id": name, "endpoint": {"display_name": name}}
        endpoints.create_endpoint(request=request, metadata=ROOT).result()
        for number, model in enumerate(deployed, 1):
            split = {"0": 100} if number == 1 else {}
            endpoints.deploy_model(
                endpoint=f"{ENDPOINTS}/{name}", deployed_model={"model": model, "id": str(number)}, traffic_split=split, metadata=ROOT
            ).result()


def restricted(transport, clients, denied, check):
    models, endpoints, predictions = clients
    refuses = lambda what, call: check.raises(f"{transport}: {what}", denied, call)
    for who, token in [("team", TEAM), ("till", TILL)]:
        listed = [endpoint.display_name for endpoint in endpoints.list_endpoints(parent=PARENT, metadata=token)]
        check(f"{transport}: the {who} sees its endpoints", listed == ["shop"], listed)
        listed = list(endpoints.list_endpoints(request={"parent": TRICK, "filter": "display_name=secret"}, metadata=token))
        check(f"{transport}: by no filter others", listed == [], listed)
        check(f"{transport}: get_endpoint", endpoints.get_endpoint(name=f"{ENDPOINTS}/shop", metadata=token).display_name == "shop")
        for name in (f"{ENDPOINTS}/secret", f"{TRICK}/endpoints/secret", f"{ENDPOINTS}/none"):
            refuses(f"the {who} does not see {name}", lambda: endpoints.get_endpoint(name=name, metadata=token))
        listed = list(models.list_models(parent=TRICK, metadata=token))
        check(f"{transport}: the {who} sees the models on them", [model.display_name for model in listed] == ["shared"], len(listed))
        where = {reference.endpoint.rsplit("/")[-1] for reference in listed[0].deployed_models}
        check(f"{transport}: and not where else they are", where == {"shop"}, where)
        check(f"{transport}: get_model", models.get_model(name=f"{PARENT}/models/shared", metadata=token).display_name == "shared")
        for name in ("hidden", "none"):
            refuses(f"the {who} does not see the model {name}", lambda: models.get_model(name=f"{PARENT}/models/{name}", metadata=token))
            refuses("nor its versions", lambda: list(models.list_model_versions(name=f"{PARENT}/models/{name}", metadata=token)))
        found = [operation.name for operation in endpoints.list_operations({"name": PARENT}, metadata=token).operations]
        check(f"{transport}: the {who} sees the operations on them", found and all("/endpoints/shop" in name for name in found), found)
        check(f"{transport}: get_operation", endpoints.get_operation({"name": found[0]}, metadata=token).done)
        waited = endpoints.wait_operation({"name": found[0]}, metadata=token)
        # Over gRPC this client leaves the message as it came.
        waited = operations_pb2.Operation.FromString(waited) if isinstance(waited, bytes) else waited
        check(f"{transport}: wait_operation", waited.done)
        check(f"{transport}: predict", len(predictions.predict(endpoint=f"{ENDPOINTS}/shop", instances=values([[1, 2, 3, 4]]), metadata=token).predictions) == 1)
        refuses("elsewhere not", lambda: predictions.predict(endpoint=f"{ENDPOINTS}/secret", instances=values([[1, 2, 3, 4]]), metadata=token))
    of_others = [operation.name for operation in endpoints.list_operations({"name": PARENT}, metadata=ROOT).operations]
    of_secret = next(name for name in of_others if "/endpoints/secret/" in name)
    of_model = next(name for name in of_others if "/models/" in name)
    mask = field_mask_pb2.FieldMask(paths=["description"])
    update = lambda name, token: endpoints.update_endpoint(endpoint={"name": name, "description": "x"}, update_mask=mask, metadata=token)
    deploy = lambda name, token: endpoints.deploy_model(endpoint=name, deployed_model={"model": f"{PARENT}/models/shared"}, metadata=token)
    undeploy = lambda name, identity, token: endpoints.undeploy_model(endpoint=name, deployed_model_id=identity, metadata=token)
    create = lambda name, token: endpoints.create_endpoint(
        request={"parent": PARENT, "endpoint": {"display_name": "new"}, "endpoint_id": name}, metadata=token
    )
    for who, token, own in [("the team elsewhere", TEAM, "secret"), ("the till at home", TILL, "shop")]:
        name = f"{ENDPOINTS}/{own}"
        for what, call in [
            ("update", lambda: update(name, token)), ("deploy", lambda: deploy(name, token)),
            ("undeploy", lambda: undeploy(name, "1", token)), ("delete", lambda: endpoints.delete_endpoint(name=name, metadata=token)),
            ("create without an id", lambda: create("", token)), ("create another", lambda: create("other", token)),
            ("upload", lambda: models.upload_model(parent=PARENT, model={"display_name": "x"}, metadata=token)),
            ("delete a model", lambda: models.delete_model(name=f"{PARENT}/models/shared", metadata=token)),
            ("cancel", lambda: endpoints.cancel_operation({"name": of_secret}, metadata=token)),
            ("look at an operation", lambda: endpoints.get_operation({"name": of_secret}, metadata=token)),
            ("by a trick", lambda: endpoints.get_operation({"name": of_secret.replace(PARENT, TRICK)}, metadata=token)),
            ("at a model's", lambda: endpoints.get_operation({"name": of_model}, metadata=token)),
            ("delete an operation", lambda: endpoints.delete_operation({"name": of_secret}, metadata=token)),
        ]:
            refuses(f"{who} may not {what}", call)
    shop = f"{ENDPOINTS}/shop"
    check(f"{transport}: the team changes its endpoint", update(shop, TEAM).description == "x")
    new = deploy(shop, TEAM).result(timeout=60).deployed_model.id
    undeploy(shop, new, TEAM).result(timeout=60)
    made = create("shop-new", TEAM).result(timeout=60).name
    check(f"{transport}: it deploys, undeploys, creates and deletes there", made == f"{ENDPOINTS}/shop-new", made)
    endpoints.delete_endpoint(name=made, metadata=TEAM).result(timeout=60)


def operator(transport, clients, denied, check):
    models, endpoints, predictions = clients
    listed = [endpoint.display_name for endpoint in endpoints.list_endpoints(parent=PARENT, metadata=OPERATOR)]
    check(f"{transport}: the operator sees all", {"shop", "secret"} <= set(listed), listed)
    asked = {"display_name": "o", "artifact_uri": str(LINEAR)}
    model = models.upload_model(parent=PARENT, model=asked, metadata=OPERATOR).result(timeout=60).model
    models.delete_model(name=model, metadata=OPERATOR).result(timeout=60)
    check(f"{transport}: uploads and deletes", model.startswith(PARENT), model)
    predict = lambda: predictions.predict(endpoint=f"{ENDPOINTS}/shop", instances=values([[1, 2, 3, 4]]), metadata=OPERATOR)
    check.raises(f"{transport}: and predicts nothing", denied, predict)


def main():
    binary = Path(sys.argv[1] if len(sys.argv) > 1 else REPOSITORY / "target/debug/tessera").resolve()
    check = Checks()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokens"
        path.write_text(TOKENS)
        with Server(binary, Path(folder), {"AUTH__TOKENS_FILE": path}, models=["linear"]) as server:
            with contextlib.closing(grpc.insecure_channel(f"127.0.0.1:{server.grpc}")) as channel:
                by_grpc = grpc_clients(aiplatform_v1, "aiplatform_v1", channel)
                prepare(by_grpc)
                for transport, clients, denied in [
                    ("REST", rest_clients(aiplatform_v1, server.port), exceptions.Forbidden),
                    ("gRPC", by_grpc, exceptions.PermissionDenied),
                ]:
                    restricted(transport, clients, denied, check)
                    operator(transport, clients, denied, check)
    print(f"{check.passed} passed, {check.failed} failed")
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(main())
