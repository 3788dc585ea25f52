"""A double of W&B's server on the loopback, as far as a run's synchronisation goes.

It knows every artifact already (so that no content is uploaded), takes every file, and remembers what was asked. What a
real server makes of it, it does not tell.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Double(ThreadingHTTPServer):
    """`asked`: names and variables of what was asked, in order. `refuses`: the HTTP code of all answers, or 200.

    `gone`: it hangs up on whoever asks, as a server behind a network that is cut.
    """

    daemon_threads = True

    def __init__(self, refuses: int = 200):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.refuses = refuses
        self.gone = False
        self.asked: list[tuple[str, dict[str, Any]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves in the midst is no news."""

    def of(self, name: str) -> list[dict[str, Any]]:
        return [variables for operation, variables in self.asked if operation == name]


@contextmanager
def served(refuses: int = 200) -> Iterator[Double]:
    server = Double(refuses)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Double
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        pass

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.server.gone:
            self.close_connection = True
            return
        data: Any = {}
        if self.path == "/graphql":
            query = json.loads(body)
            variables = query.get("variables") or {}
            named = re.search(r"(?:query|mutation)\s+(\w+)", query["query"])
            operation = named[1] if named else ""
            self.server.asked.append((operation, variables))
            data = self._of(operation, variables)
        refused = self.path == "/graphql" and self.server.refuses != 200
        content = {"errors": [{"message": "permission denied"}]} if refused else {"data": data}
        text = json.dumps(content).encode()
        self.send_response(self.server.refuses if refused else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_PUT = _answer  # noqa: N815

    def _of(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        if operation == "UpsertBucket":
            project = {"name": "p", "entity": {"name": "me"}}
            bucket = {"id": "B", "name": variables["name"], "displayName": "x", "project": project}
            return {"upsertBucket": {"bucket": {**bucket, "historyLineCount": 0}, "inserted": True}}
        if operation == "CreateArtifact":
            artifact = {"id": variables["input"]["digest"], "state": "COMMITTED"}
            return {"createArtifact": {"artifact": {**artifact, "artifactSequence": {"latestArtifact": None}}}}
        if operation == "UseArtifact":
            return {"useArtifact": {"artifact": {"id": "x"}}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.server.url}/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "B", "uploadHeaders": [], "files": files}}
        if operation == "Viewer":
            return {"viewer": {"id": "u", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}
        return {"serverInfo": {"features": []}} if operation == "ServerFeaturesQuery" else {"project": None}
