#!/usr/bin/env python3
"""Models and endpoints by gcloud, from the upload to the end, where it is installed.

    tests/clients/gcloud.py target/debug/tessera
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

from harness import REPOSITORY, Checks, server
from verbs import ROWS, gcloud_command


def four_steps(port, check, scratch, track):
    """`track` is `ai` for v1, or `beta ai` for v1beta1."""
    run = lambda *words: gcloud_command(port, scratch, *track.split(), *words)

    def does(what, *words, wanted=""):
        done = run(*words)
        said = done.stdout + done.stderr
        check(f"gcloud {track} {what}", done.returncode == 0 and wanted in said, said[-200:])
        return done.stdout

    (scratch / "request.json").write_text(json.dumps({"instances": ROWS}))
    model = ["--display-name=toy", "--artifact-uri=gs://local-bucket/linear/1", "--container-image-uri=local/server:latest"]
    does("models upload", "models", "upload", "--model-id=toy", *model)
    does("models list", "models", "list", wanted="toy")
    shown = json.loads(does("models describe", "models", "describe", "toy", "--format=json"))
    check("its version", shown["versionId"] == "1" and shown["versionAliases"] == ["default"], shown["versionId"])
    does("models list-version", "models", "list-version", "toy", wanted="toy@1")
    does("endpoints create", "endpoints", "create", "--display-name=toy", "--endpoint-id=toy", wanted="endpoints/toy")
    deployment = ["--model=toy", "--display-name=first", "--machine-type=n1-standard-4", "--traffic-split=0=100"]
    does("endpoints deploy-model", "endpoints", "deploy-model", "toy", *deployment, wanted="Deployed a model")
    does("endpoints predict", "endpoints", "predict", "toy", f"--json-request={scratch}/request.json", wanted="[[30.5], [70.5]]")
    does("endpoints list", "endpoints", "list", wanted="toy")
    does("endpoints update", "endpoints", "update", "toy", "--display-name=renamed", "--update-labels=team=a")
    shown = json.loads(does("endpoints describe", "endpoints", "describe", "toy", "--format=json"))
    check("what was updated", (shown["displayName"], shown["labels"]) == ("renamed", {"team": "a"}), shown["displayName"])
    deployed = shown["deployedModels"][0]["id"]
    check("its share", shown["trafficSplit"] == {deployed: 100}, shown["trafficSplit"])
    refused = run("models", "delete", "toy")
    check("a deployed model stays", refused.returncode != 0 and "FAILED_PRECONDITION" in refused.stderr, refused.stderr[-200:])
    does("endpoints undeploy-model", "endpoints", "undeploy-model", "toy", f"--deployed-model-id={deployed}")
    does("endpoints delete", "endpoints", "delete", "toy")
    does("models delete", "models", "delete", "toy")
    gone = run("endpoints", "describe", "toy")
    check("what is deleted is gone", gone.returncode != 0 and "NOT_FOUND" in gone.stderr, gone.stderr[-200:])


def main():
    binary = sys.argv[1] if len(sys.argv) > 1 else REPOSITORY / "target/debug/tessera"
    if not shutil.which("gcloud"):
        print("skipped: gcloud is not installed")
        return 0
    check = Checks()
    settings = {"TESSERA__ARTIFACTS__MAP": f'{{ "gs://local-bucket" = "{REPOSITORY / "tests/models"}" }}'}
    with tempfile.TemporaryDirectory() as scratch, server(binary, settings=settings) as port:
        for track in ["ai", "beta ai"]:
            four_steps(port, check, Path(scratch), track)
    print(f"{check.passed} passed, {check.failed} failed")
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(main())
