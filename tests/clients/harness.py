"""What all clients need: a server on a free port, and something that counts what held."""

import contextlib
import os
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
PARENT = "projects/local-project/locations/us-central1/endpoints"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def server(binary, grpc_port="off", models=REPOSITORY / "models", *options, settings=()):
    """A server of the repository's or other models; gives its port once it is ready, and ends it."""
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AIP_", "TESSERA__"))}
    environment["TESSERA__SERVER__DRAIN_DELAY"] = "0s"
    environment.update(settings)
    command = [binary, "serve", "--host", "127.0.0.1", "--port", str(port), "--admin-port", "off", "--log-level", "warn"]
    command += ["--grpc-port", str(grpc_port), "--models", models, *options]
    process = subprocess.Popen(command, env=environment)
    try:
        for _ in range(600):
            if process.poll() is not None:
                raise SystemExit(f"the server ended with {process.returncode} before it was ready")
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
                break
            time.sleep(0.1)
        else:
            raise SystemExit("the server was not ready within a minute")
        yield port
    finally:
        process.terminate()
        process.wait(timeout=60)


class Checks:
    """Counts and prints what held and what did not."""

    def __init__(self):
        self.passed = self.failed = 0

    def __call__(self, what, holds, detail=""):
        self.passed, self.failed = self.passed + bool(holds), self.failed + (not holds)
        print(f"{'ok    ' if holds else 'FAILED'} {what}{f': {detail}' if detail != '' else ''}", flush=True)

    def raises(self, what, exception, call):
        """Whether a call fails with an exception of exactly this class."""
        try:
            call()
        except Exception as error:
            self(what, type(error) is exception, f"{type(error).__name__}: {str(error)[:120]}")
        else:
            self(what, False, "it did not fail")
