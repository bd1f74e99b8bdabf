#!/usr/bin/env python3
"""TLS, tokens and API keys, as Google's clients, gRPC and plain sockets meet them.

    tests/clients/tls.py target/debug/tessera

Certificates are made here; the server gets new ones while it runs.
"""

import base64
import contextlib
import datetime
import http.client
import ipaddress
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from harness import PARENT, REPOSITORY, Checks, free_port

NOW = datetime.datetime.now(datetime.timezone.utc)
DAY = datetime.timedelta(days=1)
BODY = json.dumps({"instances": [[1.0, 2.0, 3.0, 4.0]]}).encode()


class Authority:
    """A root that only these tests trust."""

    def __init__(self, folder):
        self.folder, self.key = folder, ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
        root = self.builder(self.name, self.key, -DAY, 365 * DAY).add_extension(x509.BasicConstraints(True, None), True)
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        self.path = folder / "ca.pem"
        self.path.write_bytes(root.add_extension(usage, True).sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def builder(self, subject, key, begin, end):
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(key.public_key())
        return builder.serial_number(x509.random_serial_number()).not_valid_before(NOW + begin).not_valid_after(NOW + end)

    def issue(self, name, key=None, begin=-DAY, end=90 * DAY):
        """A certificate for localhost and its key, as two files; gives the certificate's serial number, too."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = self.builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]), key, begin, end)
        builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
        certificate = builder.sign(self.key, hashes.SHA256())
        paths = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        form = serialization.PrivateFormat.PKCS8
        paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
        return *paths, certificate.serial_number


class Server:
    """The binary with TLS or tokens, on free ports."""

    def __init__(self, binary, folder, settings, host="127.0.0.1", models=("linear", "slow", "colour")):
        repository = Path(tempfile.mkdtemp(dir=folder))
        for model in models:
            (repository / model).symlink_to(REPOSITORY / "tests/models" / model)
        self.port, self.grpc, self.https, self.grpcs, self.admin = (free_port() for _ in range(5))
        has_tls = "TLS__CERTIFICATE" in settings
        own = {"SERVER__DRAIN_DELAY": "0s", "SERVER__HEADER_TIMEOUT": "3s", "DEFAULT_ENDPOINT": "linear"}
        if has_tls:
            own |= {"TLS__PORT": str(self.https), "GRPC__TLS_PORT": str(self.grpcs)}
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("AIP_", "TESSERA__"))}
        environment |= {f"TESSERA__{name}": str(value) for name, value in (own | settings).items()}
        command = [binary, "serve", "--host", host, "--port", str(self.port), "--admin-port", str(self.admin)]
        command += ["--grpc-port", str(self.grpc), "--models", repository, "--log-format", "json", "--log-level", "debug"]
        self.path = repository.parent / f"log-{self.port}"
        self.process = subprocess.Popen(command, env=environment, stdout=open(self.path, "w"), cwd=folder)

    def __enter__(self):
        for _ in range(600):
            if self.process.poll() is not None:
                raise SystemExit(f"the server ended: {self.log()[-600:]}")
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=5):
                return self
            time.sleep(0.1)
        raise SystemExit("the server was not ready within a minute")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(timeout=60)

    def log(self):
        return self.path.read_text()

    def failure(self):
        """What it says when it can't start."""
        code = self.process.wait(timeout=60)
        lines = [json.loads(line) for line in self.log().splitlines()]
        return code, next((line["message"] for line in lines if line["severity"] == "ERROR"), "")


def wait_for(condition, seconds=15):
    for _ in range(seconds * 20):
        if value := condition():
            return value
        time.sleep(0.05)
    return None


def ask(url, body=None, context=None, headers=None):
    """The status, the JSON and the headers of an answer."""
    request = urllib.request.Request(url, body, headers or {})
    try:
        with urllib.request.urlopen(request, timeout=30, context=context) as answer:
            return answer.status, json.load(answer), answer.headers
    except urllib.error.HTTPError as error:
        text = error.read()
        return error.code, json.loads(text) if text else None, error.headers


def serial(port, authority):
    context = ssl.create_default_context(cafile=authority.path)
    with socket.create_connection(("127.0.0.1", port), 10) as plain, context.wrap_socket(plain, server_hostname="localhost") as stream:
        return x509.load_der_x509_certificate(stream.getpeercert(True)).serial_number


def transport(binary, folder, check):
    authority = Authority(folder)
    certificate, key, first = authority.issue("server")
    context = ssl.create_default_context(cafile=authority.path)
    with Server(binary, folder, {"TLS__CERTIFICATE": certificate, "TLS__KEY": key}) as server:
        url = f"https://localhost:{server.https}"
        status, answer, _ = ask(f"{url}/v1/endpoints/linear:predict", BODY, context)
        check("HTTPS predicts", status == 200 and len(answer["predictions"]) == 1, answer)
        check("so does the port without TLS", ask(f"http://127.0.0.1:{server.port}/predict", BODY)[0] == 200)
        for version, name in [(ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")]:
            only = ssl.create_default_context(cafile=authority.path)
            only.minimum_version = only.maximum_version = version
            only.set_alpn_protocols(["h2", "http/1.1"])
            with socket.create_connection(("127.0.0.1", server.https), 10) as plain, only.wrap_socket(plain, server_hostname="localhost") as stream:
                check(f"{name} agrees on h2", stream.version() == name and stream.selected_alpn_protocol() == "h2")

        # Clients who say nothing, or the wrong thing, keep nobody else.
        silent = [socket.create_connection(("127.0.0.1", server.https)) for _ in range(50)]
        begin = time.time()
        check("silent connections keep nobody waiting", ask(f"{url}/readyz", None, context)[0] == 200 and time.time() - begin < 2)
        check("a handshake has a timeout", wait_for(lambda: "handshake took too long" in server.log()), "")
        for stream in silent:
            stream.close()
        status, answer, _ = ask(f"http://127.0.0.1:{server.https}/readyz")
        check("plain HTTP to the port of HTTPS is told", status == 400 and "https://" in answer["error"]["message"], answer)
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", server.https), 5) as garbage:
            garbage.sendall(bytes(range(256)))
            garbage.recv(100)
        check("garbage is survived", ask(f"{url}/readyz", None, context)[0] == 200)
        idle = context.wrap_socket(socket.create_connection(("127.0.0.1", server.https), 10), server_hostname="localhost")
        idle.settimeout(10)
        begin = time.time()
        check("a connection that asks nothing is closed", idle.recv(1) == b"" and time.time() - begin < 8, f"{time.time() - begin:.1f} s")

        google(server, authority, check)

        # New certificates.
        kept = http.client.HTTPSConnection("localhost", server.https, context=context, timeout=30)
        kept.request("POST", "/predict", BODY)
        check("a kept connection", kept.getresponse().read() and serial(server.https, authority) == first)
        second = authority.issue("server", rsa.generate_private_key(65537, 2048))[2]
        check("a new certificate is taken without a signal", wait_for(lambda: serial(server.https, authority) == second))
        check("by the port of gRPC, too", serial(server.grpcs, authority) == second)
        kept.request("POST", "/predict", BODY)
        check("and the kept connection goes on", b"predictions" in kept.getresponse().read())
        good = key.read_bytes()
        key.write_text("-----BEGIN PRIVATE KEY-----\nbroken\n-----END PRIVATE KEY-----\n")
        check("a broken key is logged", wait_for(lambda: "the certificate stays as it was" in server.log()))
        check("and the certificate stays", serial(server.https, authority) == second)
        key.write_bytes(good)
        wait_for(lambda: server.log().count("read again") >= 2)
        third = authority.issue("server")[2]
        server.process.send_signal(signal.SIGHUP)
        check("SIGHUP looks at once", wait_for(lambda: serial(server.https, authority) == third, 1) and server.process.poll() is None)

        # What runs when the end begins is finished.
        slow = http.client.HTTPSConnection("localhost", server.https, context=context, timeout=30)
        slow.request("POST", "/v1/endpoints/slow:predict", slow_body())
        waiting = socket.create_connection(("127.0.0.1", server.https))
        time.sleep(0.3)
        begin = time.time()
        server.process.terminate()
        answer = slow.getresponse()
        check("a request under way is answered at the end", answer.status == 200, answer.read()[:100])
        server.process.wait(timeout=30)
        check("and nobody who is silent holds it up", time.time() - begin < 10 and server.process.returncode == 0, f"{time.time() - begin:.1f} s")
        waiting.close()


def slow_body():
    picture = base64.b64encode((REPOSITORY / "examples" / "cat.jpg").read_bytes()).decode()
    return json.dumps({"instances": [{"b64": picture}]}).encode()


def google(server, authority, check):
    """Google's clients in a process of their own: what they trust is set before they are imported."""
    script = f"""
import grpc, sys
from google.auth.credentials import AnonymousCredentials
from google.cloud import aiplatform, aiplatform_v1
from google.cloud.aiplatform_v1.services.prediction_service import transports
roots = open({str(authority.path)!r}, 'rb').read()
channel = grpc.secure_channel('localhost:{server.grpcs}', grpc.ssl_channel_credentials(roots))
name = '{PARENT}/linear'
client = aiplatform_v1.PredictionServiceClient(transport=transports.PredictionServiceGrpcTransport(channel=channel))
print('grpc', len(client.predict(endpoint=name, instances=[[1, 2, 3, 4]]).predictions))
channel = grpc.secure_channel('localhost:{server.https}', grpc.ssl_channel_credentials(roots))
client = aiplatform_v1.PredictionServiceClient(transport=transports.PredictionServiceGrpcTransport(channel=channel))
print('grpc beside https', len(client.predict(endpoint=name, instances=[[1, 2, 3, 4]]).predictions))
client = aiplatform_v1.PredictionServiceClient(transport='rest', credentials=AnonymousCredentials(), client_options={{'api_endpoint': 'localhost:{server.https}'}})
print('rest', len(client.predict(endpoint=name, instances=[[1, 2, 3, 4]]).predictions))
client = aiplatform_v1.PredictionServiceClient(credentials=AnonymousCredentials(), client_options={{'api_endpoint': 'localhost:{server.grpcs}'}})
print('default', len(client.predict(endpoint=name, instances=[[1, 2, 3, 4]]).predictions))
"""
    environment = os.environ | {"REQUESTS_CA_BUNDLE": str(authority.path), "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(authority.path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120)
    for what in ["grpc", "grpc beside https", "rest", "default"]:
        check(f"Google's client by TLS: {what}", f"{what} 1\n" in done.stdout, done.stderr[-300:] if f"{what} 1\n" not in done.stdout else "")


def start_errors(binary, folder, check):
    authority = Authority(folder)
    certificate, key, _ = authority.issue("one")
    other = authority.issue("other")[1]
    empty = folder / "empty.pem"
    empty.write_text("nothing\n")
    locked = folder / "locked.key"
    locked.write_bytes(ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"pass")))
    for what, settings, words in [
        ("no such file", (folder / "none.pem", key), ["none.pem", "can't be read"]),
        ("no certificate", (empty, key), ["empty.pem", "no certificate"]),
        ("no key", (certificate, empty), ["empty.pem", "no private key"]),
        ("swapped files", (key, certificate), ["one.key", "no certificate"]),
        ("a key with a passphrase", (certificate, locked), ["locked.key", "passphrase"]),
        ("another certificate's key", (certificate, other), ["other.key", "one.pem"]),
    ]:
        code, message = Server(binary, folder, {"TLS__CERTIFICATE": settings[0], "TLS__KEY": settings[1]}).failure()
        check(f"{what} ends the start", code == 1 and all(word in message for word in words), message)
    for what, begin, end, words in [
        ("expired", -3 * DAY, -DAY, "has expired"), ("not valid yet", DAY, 9 * DAY, "not valid yet"),
        ("soon to expire", -DAY, 5 * DAY, "expires within 14 days"), ("good", -DAY, 90 * DAY, None),
    ]:
        certificate, key, _ = authority.issue("dated", begin=begin, end=end)
        with Server(binary, folder, {"TLS__CERTIFICATE": certificate, "TLS__KEY": key}) as server:
            warned = [line for line in server.log().splitlines() if "WARNING" in line and "the certificate" in line]
            check(f"a certificate that is {what}", words in warned[0] if words else not warned, warned[:1])


def tokens(binary, folder, check):
    path = folder / "tokens"
    path.write_text("""
[[token]]
name = "shop"
token = "shop-token-of-linear"
role = "predict"
endpoints = ["linear"]
[[token]]
name = "operator"
token = "operator-token"
role = "manage"
""")
    settings = {"AUTH__TOKENS_FILE": path, "AUTH__TOKENS": "root-token,second-root"}
    with Server(binary, folder, settings) as server:
        url = f"http://127.0.0.1:{server.port}"
        bearer = lambda token: {"Authorization": f"Bearer {token}"}
        for route in ["/health", "/livez", "/readyz"]:
            check(f"{route} asks nobody", ask(url + route)[0] == 200)
        check("nor does the admin port", ask(f"http://127.0.0.1:{server.admin}/health")[0] == 200)
        status, answer, headers = ask(f"{url}/predict", BODY)
        check("without a token 401", status == 401 and answer["error"]["status"] == "UNAUTHENTICATED", answer)
        check("which says how", headers["WWW-Authenticate"].startswith("Bearer"), headers["WWW-Authenticate"])
        for route in ["/", "/metrics", "/nothing", "/v1/endpoints", "/v1/projects/p/locations/l/endpoints/linear"]:
            check(f"{route} asks, too", ask(url + route)[0] == 401)
        status, answer, _ = ask(f"{url}/v1/models/linear:predict", BODY)
        check("KServe's routes in their own form", status == 401 and isinstance(answer["error"], str), answer)
        for what, query, headers in [
            ("a bearer token", "", bearer("root-token")), ("in any case", "", {"authorization": "bearer second-root"}),
            ("an API key", "", {"x-goog-api-key": "root-token"}), ("a key in the query", "?key=root%2Dtoken", {}),
            ("a token for this endpoint", "", bearer("shop-token-of-linear")),
        ]:
            check(f"{what} predicts", ask(f"{url}/v1/endpoints/linear:predict{query}", BODY, headers=headers)[0] == 200)
        for wrong in ["root-toke", "root-token1", "ROOT-TOKEN", ""]:
            check(f"not {wrong!r}", ask(f"{url}/predict", BODY, headers=bearer(wrong))[0] == 401)
        shop = bearer("shop-token-of-linear")
        for what, route, body, headers, expected in [
            ("the default endpoint is its own", "/predict", BODY, shop, 200),
            ("another endpoint is not", "/v1/endpoints/slow:predict", slow_body(), shop, 403),
            ("nor by its model's name", "/v1/models/slow:predict", slow_body(), shop, 403),
            ("nor one that isn't there", "/v1/endpoints/none:predict", BODY, shop, 403),
            ("it sees its own", "/v1/endpoints/linear", None, shop, 200),
            ("and no list of all", "/v1/endpoints", None, shop, 403),
            ("it changes nothing", "/v1/projects/p/locations/l/endpoints/linear:undeployModel", b"{}", shop, 403),
            ("who manages doesn't predict", "/predict", BODY, bearer("operator-token"), 403),
            ("but looks", "/v1/endpoints", None, bearer("operator-token"), 200),
        ]:
            status, answer, _ = ask(url + route, body, headers=headers)
            named = status != 403 or not isinstance(answer["error"], dict) or answer["error"]["status"] == "PERMISSION_DENIED"
            check(what, status == expected and named and "slow" not in json.dumps(answer.get("error")), (status, answer.get("error")))
        grpc_tokens(server, check)
        path.write_text(path.read_text().replace("shop-token", "fresh-token"))
        fresh = bearer("fresh-token-of-linear")
        check("the file is read again", wait_for(lambda: ask(f"{url}/predict", BODY, headers=fresh)[0] == 200))
        check("and the old token is void", ask(f"{url}/predict", BODY, headers=shop)[0] == 401)
        path.write_text("[[token]]\nname = 3 # hush-hush\n")
        check("a broken file is logged", wait_for(lambda: "the tokens stay as they were" in server.log()))
        check("and changes nothing", ask(f"{url}/predict", BODY, headers=fresh)[0] == 200)
        log = server.log()
        check("no token is logged", not any(secret in log for secret in ["root-token", "second-root", "shop-token", "fresh-token", "operator-token", "hush", "root%2Dtoken"]))
        check("a bound address that only this machine reaches warns of nothing", "which others reach" not in log)
    environment = os.environ | {"TESSERA__AUTH__TOKENS": "root-token,second-root"}
    printed = subprocess.run([binary, "check", "--print-config"], env=environment, capture_output=True, text=True, cwd=folder)
    check("print-config hides tokens", "root" not in printed.stdout and 'tokens = ["2 hidden"]' in printed.stdout)
    for wrong in ["[hush", "hush hush"]:
        code, message = Server(binary, folder, {"AUTH__TOKENS": wrong}).failure()
        check("so does an error", code == 1 and "auth.tokens: token 1" in message and "hush" not in message, message)
    with Server(binary, folder, {}, host="0.0.0.0") as server:
        check("an open address is warned of", "without TLS and without tokens" in server.log())
        check("and nobody is asked", ask(f"http://127.0.0.1:{server.port}/predict", BODY, headers={"Authorization": "Bearer x"})[0] == 200)


def grpc_tokens(server, check):
    import grpc
    from google.api_core import exceptions
    from google.cloud import aiplatform_v1
    from google.cloud.aiplatform_v1.services.prediction_service import transports

    for port in (server.grpc, server.port):
        channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        client = aiplatform_v1.PredictionServiceClient(transport=transports.PredictionServiceGrpcTransport(channel=channel))
        predict = lambda endpoint, metadata=(): client.predict(endpoint=f"{PARENT}/{endpoint}", instances=[[1, 2, 3, 4]], metadata=metadata)
        check.raises("gRPC without a token", exceptions.Unauthenticated, lambda: predict("linear"))
        shop = [("authorization", "Bearer shop-token-of-linear")]
        check("gRPC with one", len(predict("linear", shop).predictions) == 1)
        check("as an API key", len(predict("linear", [("x-goog-api-key", "root-token")]).predictions) == 1)
        check.raises("for another endpoint", exceptions.PermissionDenied, lambda: predict("slow", shop))
        check.raises("who manages doesn't predict", exceptions.PermissionDenied, lambda: predict("linear", [("authorization", "Bearer operator-token")]))
        health = channel.unary_unary("/grpc.health.v1.Health/Check", request_serializer=bytes, response_deserializer=bytes)
        check("gRPC's health asks nobody", health(b"") == b"\x08\x01")
        channel.close()


def main():
    binary = Path(sys.argv[1] if len(sys.argv) > 1 else REPOSITORY / "target/debug/tessera").resolve()
    check = Checks()
    with tempfile.TemporaryDirectory() as folder:
        for part in (transport, start_errors, tokens):
            if not sys.argv[2:] or part.__name__ in sys.argv[2:]:
                part(binary, Path(folder), check)
    print(f"{check.passed} passed, {check.failed} failed")
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(main())
