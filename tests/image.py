#!/usr/bin/env python3
"""Start a container image of Tessera and hold it to Vertex AI's container contract.

    tests/image.py tessera:latest

Runs it with docker or podman, as user 65532 on a read-only root file system, else with buildah on
the host's network. Checks: it becomes ready; the picture of a cat is called one; the
health route turns 503 after SIGTERM; exit code 0. Prints the time to ready. Standard library only.
"""

import base64
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
HEALTH, PREDICT = "/ping", "/infer"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def answers(command):
    try:
        return subprocess.call(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0
    except OSError:
        return False


def ask(port, path, body=None):
    """Status and body of one request, or (0, reason) where nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST" if body else "GET", path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except OSError as error:
        return 0, str(error).encode()
    finally:
        connection.close()


class Engine:
    """The image as a running container; `port` is where it listens on this host."""

    def __init__(self, image):
        self.port = free_port()
        variables = {"AIP_HTTP_PORT": str(self.port), "AIP_HEALTH_ROUTE": HEALTH, "AIP_PREDICT_ROUTE": PREDICT}
        options = [f"--env={name}={value}" for name, value in variables.items()]
        self.name = next((name for name in ("docker", "podman") if answers([name, "info"])), "buildah")
        if self.name == "buildah":
            self.container = subprocess.check_output(["buildah", "from", "--pull-never", image], text=True).strip()
            # `buildah run` knows no entry point.
            command = ["/opt/tessera/bin/tessera", "serve"]
            options += ["--isolation", os.environ.get("ISOLATION", "oci"), "--user", "65532", "--net", "host"]
            self.process = subprocess.Popen(["buildah", "run", *options, self.container, "--", *command])
        else:
            self.container = f"tessera-{os.getpid()}"
            options += [f"--publish={self.port}:{self.port}", "--read-only", "--cap-drop=ALL", f"--name={self.container}"]
            self.process = subprocess.Popen([self.name, "run", "--rm", *options, image])

    def processes(self):
        """The server's process ids on this host (buildah only), told by the port in its environment."""
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if (folder / "cmdline").read_bytes().startswith(b"/opt/tessera/bin/tessera\0") and (
                    f"AIP_HTTP_PORT={self.port}\0".encode() in (folder / "environ").read_bytes()
                ):
                    yield int(folder.name)
            except OSError:
                continue  # it ended meanwhile

    def terminate(self):
        if self.name != "buildah":
            subprocess.check_call([self.name, "kill", "--signal=TERM", self.container], stdout=subprocess.DEVNULL)
        for process in self.processes() if self.name == "buildah" else ():
            os.kill(process, signal.SIGTERM)

    def remove(self):
        if self.process.poll() is None:
            for process in self.processes():
                os.kill(process, signal.SIGKILL)
            self.process.kill()
        remove = [self.name, "rm", self.container] if self.name == "buildah" else [self.name, "rm", "-f", self.container]
        answers(remove)


def check(what, holds, detail=""):
    print(f"{'ok    ' if holds else 'FAILED'} {what}{f': {detail}' if detail else ''}", flush=True)
    if not holds:
        raise SystemExit(1)


def main():
    image = sys.argv[1] if len(sys.argv) > 1 else "tessera:latest"
    picture = base64.b64encode((REPOSITORY / "examples" / "cat.jpg").read_bytes()).decode()
    engine = Engine(image)
    try:
        begun = time.monotonic()
        status, body = 0, b""
        while status != 200 and engine.process.poll() is None and time.monotonic() - begun < 120:
            status, body = ask(engine.port, HEALTH)
            if status not in (0, 200, 503):
                check("the health route says nothing but 503 and 200", False, status)
            time.sleep(0.02)
        check("it becomes ready", status == 200, f"{time.monotonic() - begun:.2f} s with {engine.name}")

        status, body = ask(engine.port, PREDICT, json.dumps({"instances": [{"b64": picture}]}))
        check("the predict route answers 200", status == 200, body[:200].decode(errors="replace"))
        answer = json.loads(body)
        check("with nothing but predictions", list(answer) == ["predictions"])
        check("the cat is a cat", answer["predictions"][0]["label"] == "Egyptian cat", answer["predictions"][0])
        status, _ = ask(engine.port, PREDICT, "{")
        check("a body that is no JSON is a 400", status == 400, status)

        engine.terminate()
        status, deadline = 200, time.monotonic() + 3
        while status == 200 and time.monotonic() < deadline:
            status, _ = ask(engine.port, HEALTH)
        check("the health route turns 503 after SIGTERM", status == 503, status)
        status, _ = ask(engine.port, PREDICT, json.dumps({"instances": [{"b64": picture}]}))
        check("and requests are answered meanwhile", status == 200, status)
        check("the process ends with 0", engine.process.wait(timeout=60) == 0, engine.process.returncode)
    finally:
        engine.remove()
    print("the image keeps the container contract")


if __name__ == "__main__":
    main()
