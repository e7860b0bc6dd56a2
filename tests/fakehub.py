"""A Hub on loopback: enough of the HTTP API for huggingface_hub to download from.

    with FakeHub({"org/model": {"main": {"config.json": b"{}", "model.safetensors": blob}}}) as hub:
        subprocess.run([...], env={**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path)})

A repository is a mapping of branches to files. Each branch has one commit, a hash of its contents, and may be asked
for by name or by that commit. `hub.log` holds (method, path) of every request. What may be set at any time:

- ``hub.fault[file]`` breaks one file: an int (HTTP status), "truncate" (short body, then close), "corrupt" (right
  size, wrong bytes), "slow" (a tenth of a second for each quarter), "hang" (no answer), "stall" (half of the body, then
  nothing more), "no-commit", "no-etag", "no-length" (header left out);
- ``hub.etags[file]`` is sent in place of the file's own ETag, which is its SHA-256 for weights and otherwise the SHA-1
  that git has of it;
- ``hub.error_code`` is sent with an int fault, as the Hub's X-Error-Code;
- ``hub.silent``: no answer to anything;
- ``hub.token``: requests without it get 401;
- ``hub.on_request``: called with the path before each answer.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]


def commit_of(files: Files) -> str:
    """A commit hash made from the contents."""
    digest = hashlib.sha1()
    for name, data in sorted(files.items()):
        digest.update(name.encode() + b"\0" + hashlib.sha256(data).digest())
    return digest.hexdigest()


def etag_of(name: str, data: bytes) -> str:
    """The ETag that the Hub sends: weights are in its large-file storage, everything else is in git."""
    if name.endswith((".safetensors", ".bin", ".h5")):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class FakeHub(ThreadingHTTPServer):
    """The server; ``with FakeHub(repos) as hub`` runs it in a thread."""

    daemon_threads = True

    def __init__(self, repos: dict[str, dict[str, Files]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos = repos
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.log: list[tuple[str, str]] = []
        self.fault: dict[str, int | str] = {}
        self.etags: dict[str, str] = {}
        self.error_code: str | None = None
        self.silent = False
        self.token: str | None = None
        self.on_request: Callable[[str], None] = lambda path: None
        self.stop = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """Of a client that went away in the middle of an answer: nothing to tell."""

    def files(self, repo: str, revision: str) -> Files | None:
        for branch, files in self.repos[repo].items():
            if revision in (branch, commit_of(files)):
                return files
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeHub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def reply(self, status: int, body: bytes = b"", **headers: str | None) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        hub, path = self.server, urlsplit(self.path).path
        hub.log.append((self.command, unquote(path)))
        hub.on_request(unquote(path))
        if hub.silent:
            hub.stop.wait()
        elif hub.token and self.headers.get("authorization") != f"Bearer {hub.token}":
            self.reply(401, X_Error_Code="RepoNotFound")
        elif path == "/api/agent-harnesses":  # the client's telemetry
            self.reply(200, b'{"standardEnvVars": [], "harnesses": {}}', Content_Type="application/json")
        else:
            self.resolve(path)

    do_HEAD = do_GET

    def resolve(self, path: str) -> None:
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if match is None or match[1] not in self.server.repos:
            return self.reply(404, X_Error_Code="RepoNotFound")
        files, name = self.server.files(match[1], unquote(match[2])), match[3]
        if files is None:
            return self.reply(404, X_Error_Code="RevisionNotFound")
        fault = self.server.fault.get(name)
        if isinstance(fault, int):
            return self.reply(fault, X_Error_Code=self.server.error_code)
        if name not in files:
            return self.reply(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit_of(files))
        if fault == "hang":
            self.server.stop.wait()
            return None
        return self.send(
            files[name], self.server.etags.get(name) or etag_of(name, files[name]), commit_of(files), fault
        )

    def send(self, data: bytes, etag: str, commit: str, fault: str | None) -> None:
        headers = {
            "X_Repo_Commit": None if fault == "no-commit" else commit,
            "ETag": None if fault == "no-etag" else f'"{etag}"',
            "Content_Length": str(len(data)),
        }
        if self.command == "HEAD":
            return self.reply(200, data, **headers | ({"Content_Length": None} if fault == "no-length" else {}))
        if fault == "corrupt":
            data = bytes(byte ^ 255 for byte in data)
        self.reply(200, b"", **headers)
        cut = len(data) // 4
        for part in (data[:cut], data[cut : 2 * cut]):
            self.write(part, fault)
        if fault == "truncate":
            self.close_connection = True
            return None
        if fault == "stall":
            self.server.stop.wait()
        for part in (data[2 * cut : 3 * cut], data[3 * cut :]):
            self.write(part, fault)
        return None

    def write(self, data: bytes, fault: str | None) -> None:
        self.wfile.write(data)
        if fault == "slow":
            time.sleep(0.1)
