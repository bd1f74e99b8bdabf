#!/usr/bin/env python3
"""Credentials for object stores that come from elsewhere: workload identity federation for Google's, profiles for Amazon's.

    tests/clients/artifact_credentials.py target/debug/tessera

The stores are the emulators of artifacts.py, behind a proxy that sees what it is asked. A small server plays the identity
provider, the Security Token Service and the one that gives the tokens of service accounts.
"""

import base64
import http.server
import json
import sys
import tempfile
import threading
import urllib.parse
import urllib.request
from pathlib import Path

from artifacts import MODEL, Proxy, Tessera, fake_gcs, moto
from harness import REPOSITORY, Checks

AUDIENCE = "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q"
SUBJECT = "eyJ-the-other-providers-token"


class Issuer(http.server.ThreadingHTTPServer):
    """Gives tokens to those who ask rightly, and notes what it was asked."""

    daemon_threads = True

    def __init__(self):
        self.asked, self.failures = [], 0
        super().__init__(("127.0.0.1", 0), IssuerHandler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class IssuerHandler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.server.asked.append(("GET", self.path, dict(self.headers)))
        right = self.path == "/subject" and self.headers.get("Metadata") == "true"
        self.answer(200 if right else 403, {"access_token": SUBJECT} if right else {"error": "forbidden"})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.asked.append(("POST", self.path, dict(self.headers)))
        if self.server.failures:
            self.server.failures -= 1
            return self.answer(503, {})
        if self.path.endswith(":generateAccessToken"):
            asked = json.loads(body)
            right = self.headers.get("Authorization") == "Bearer federated-token" and asked["lifetime"] == "2800s"
            right = right and asked["scope"] == ["https://www.googleapis.com/auth/devstorage.read_only"]
            return self.answer(200, {"accessToken": "impersonated-token", "expireTime": "2100-01-01T00:00:00Z"}) if right else self.answer(403, {"error": {"status": "PERMISSION_DENIED"}})
        fields = dict(urllib.parse.parse_qsl(body, strict_parsing=True))
        right = (
            self.path == "/v1/token"
            and fields["grant_type"] == "urn:ietf:params:oauth:grant-type:token-exchange"
            and fields["requested_token_type"] == "urn:ietf:params:oauth:token-type:access_token"
            and fields["audience"] == AUDIENCE
            and fields["subject_token_type"] == "urn:ietf:params:oauth:token-type:jwt"
            and fields["scope"].startswith("https://www.googleapis.com/auth/")
            and fields["subject_token"] == SUBJECT
        )
        if right:
            self.answer(200, {"access_token": "federated-token", "expires_in": 3600, "token_type": "Bearer"})
        else:
            self.answer(400, {"error": "invalid_grant", "error_description": fields.get("subject_token", "")})


def google(binary, scratch, check):
    with fake_gcs() as (port, url):
        create = urllib.request.Request(f"{url}/storage/v1/b?project=p", b'{"name":"models-bucket"}', {"Content-Type": "application/json"})
        urllib.request.urlopen(create).read()
        target = f"{url}/upload/storage/v1/b/models-bucket/o?uploadType=media&name=toy/model.onnx"
        urllib.request.urlopen(urllib.request.Request(target, MODEL.read_bytes(), {"Content-Type": "application/octet-stream"})).read()
        proxy, issuer = Proxy(port), Issuer()
        wanted = "federated-token"
        proxy.fault = lambda handler: None if handler.headers.get("Authorization") == f"Bearer {wanted}" else "401"
        key, subject = scratch / "external.json", scratch / "subject"
        whole = {
            "type": "external_account", "audience": AUDIENCE, "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": f"{issuer.url}/v1/token", "credential_source": {"file": str(subject)},
        }
        variables = {"CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE": proxy.url, "GOOGLE_APPLICATION_CREDENTIALS": str(key)}

        def ask(**changed):
            key.write_text(json.dumps(whole | changed))
            tessera = Tessera(binary, scratch, variables)
            names = tessera.models("gs://models-bucket/toy")
            shown = [secret for secret in (SUBJECT, "federated-token", "impersonated-token", "hush") if secret in tessera.stderr]
            check("no token is shown", not shown, shown)
            return names

        subject.write_text(f"{SUBJECT}\n")
        names = ask()
        check("a token from a file is exchanged", names == ["toy"], names)
        check("once for all requests", sum(path == "/v1/token" for _, path, _ in issuer.asked) == 1, len(issuer.asked))
        subject.write_text(json.dumps({"id_token": SUBJECT}))
        names = ask(credential_source={"file": str(subject), "format": {"type": "json", "subject_token_field_name": "id_token"}})
        check("one in JSON", names == ["toy"], names)
        source = {"url": f"{issuer.url}/subject", "headers": {"Metadata": "true"}, "format": {"type": "json", "subject_token_field_name": "access_token"}}
        names = ask(credential_source=source)
        check("a token from a URL", names == ["toy"], names)
        issuer.asked.clear()
        names = ask(credential_source=source, client_id="client:", client_secret="hush")
        sent = [headers.get("authorization") or headers.get("Authorization") for method, path, headers in issuer.asked if path == "/v1/token"]
        check("a client's own secret", names == ["toy"] and sent == ["Basic " + base64.b64encode(b"client::hush").decode()], sent)
        issuer.failures = 2
        names = ask(credential_source=source)
        check("what passes is tried again", names == ["toy"] and issuer.failures == 0, names)
        wanted = "impersonated-token"
        account = f"{issuer.url}/v1/projects/-/serviceAccounts/a@b.iam.gserviceaccount.com:generateAccessToken"
        impersonation = {"service_account_impersonation_url": account, "service_account_impersonation": {"token_lifetime_seconds": 2800}}
        names = ask(credential_source=source, **impersonation)
        check("and a service account's token follows from it", names == ["toy"], names)

        for what, changed, words in [
            ("a wrong token", {}, "400 Bad Request, invalid_grant"),
            ("a missing file", {"credential_source": {"file": str(scratch / "none")}}, "none, which can't be read"),
            ("a URL that refuses", {"credential_source": {"url": f"{issuer.url}/subject"}}, "403 Forbidden, forbidden"),
            ("a service account that is not ours", {"credential_source": source, "service_account_impersonation_url": account}, "PERMISSION_DENIED"),
            ("AWS as the source", {"credential_source": {"environment_id": "aws1"}}, "file or url"),
            ("no audience", {"audience": None}, "audience"),
        ]:
            subject.write_text("wrong")
            error = ask(**changed)
            check(f"{what} is explained", isinstance(error, str) and words in error, error)


def amazon(binary, scratch, check):
    with moto() as port:
        import boto3

        client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
        client.create_bucket(Bucket="models-bucket")
        client.put_object(Bucket="models-bucket", Key="toy/model.onnx", Body=MODEL.read_bytes())
        proxy = Proxy(port)
        home = scratch / "home"
        (home / ".aws").mkdir(parents=True)
        (home / ".aws/credentials").write_text(
            "[default]\naws_access_key_id = AKIADEFAULT\naws_secret_access_key = hush\n"
            "[work]\naws_access_key_id = AKIAWORK\naws_secret_access_key = hush\naws_session_token = hush-session\n"
        )
        (home / ".aws/config").write_text(
            f"[default]\nregion = eu-west-1\n[profile work]\nregion = us-west-2\nendpoint_url = {proxy.url}\n"
            "[profile sso]\nsso_session = x\n"
        )
        other = scratch / "other"
        other.write_text("[default]\naws_access_key_id = AKIAOTHER\naws_secret_access_key = hush\n")

        def ask(**variables):
            proxy.seen.clear()
            tessera = Tessera(binary, scratch, {"HOME": str(home)} | variables)
            names = tessera.models("s3://models-bucket/toy")
            check("no secret is shown", "hush" not in tessera.stderr)
            signed = [headers.get("authorization") or headers.get("Authorization") or path for path, headers in proxy.seen]
            return names, urllib.parse.unquote(signed[0]) if signed else ""

        here = {"AWS_ENDPOINT_URL": proxy.url}
        for what, variables, words in [
            ("the default profile", here, ["AKIADEFAULT/", "/eu-west-1/"]),
            ("AWS_PROFILE, with its region and its address", {"AWS_PROFILE": "work"}, ["AKIAWORK/", "/us-west-2/"]),
            ("AWS_SHARED_CREDENTIALS_FILE", here | {"AWS_SHARED_CREDENTIALS_FILE": str(other)}, ["AKIAOTHER/", "/eu-west-1/"]),
            ("keys of the environment go first", here | {"AWS_ACCESS_KEY_ID": "AKIAENV", "AWS_SECRET_ACCESS_KEY": "hush"}, ["AKIAENV/", "/eu-west-1/"]),
            ("and so does its region", here | {"AWS_REGION": "us-east-1"}, ["AKIADEFAULT/", "/us-east-1/"]),
        ]:
            names, signed = ask(**variables)
            check(what, names == ["toy"] and all(word in signed for word in words), (names, signed[:90]))
        check("a session's token is sent", any("hush-session" in json.dumps([path, headers]) for path, headers in (ask(AWS_PROFILE="work") and proxy.seen)))
        for what, variables, words in [
            ("a profile that isn't there", {"AWS_PROFILE": "none"}, "neither"),
            ("a profile by other means", {"AWS_PROFILE": "sso"}, "sso_session"),
            ("a file that isn't there", {"AWS_SHARED_CREDENTIALS_FILE": "/none"}, "AWS_SHARED_CREDENTIALS_FILE names /none"),
        ]:
            error, _ = ask(**here, **variables)
            check(f"{what} is explained", words in error, error)


def main():
    binary = Path(sys.argv[1] if len(sys.argv) > 1 else REPOSITORY / "target/debug/tessera").resolve()
    check = Checks()
    with tempfile.TemporaryDirectory() as scratch:
        google(binary, Path(scratch), check)
        amazon(binary, Path(scratch), check)
    print(f"{check.passed} passed, {check.failed} failed")
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(main())
