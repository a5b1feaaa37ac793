"""A small server that speaks the part of the hub's API that an upload takes, and keeps what came.

Paths and bodies are those that huggingface_hub sends: a repository is made, the card is validated,
each file is announced, large ones go through git-lfs, and a commit names them all.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_test"


@dataclass
class Hub:
    """What was asked for, and what is in the repositories."""

    url: str = ""
    made: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    refuses: int = 0


@contextmanager
def serving_hub() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def answer(self, content: Any, status: int = 200) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            model = hub.models.get(self.path.removeprefix("/api/models/"))
            self.answer(model or {"error": "not found"}, 200 if model else 404)

        def do_PUT(self) -> None:
            data = self.body()
            oid = self.path.rpartition("/")[2]
            assert hashlib.sha256(data).hexdigest() == oid
            hub.stored[oid] = data
            self.answer({})

        def do_POST(self) -> None:
            data = self.body()
            if self.headers.get("Authorization") != f"Bearer {TOKEN}" or hub.refuses:
                self.answer({"error": "no"}, hub.refuses or 401)
            elif self.path == "/api/repos/create":
                hub.made.append(json.loads(data))
                one = json.loads(data)
                self.answer({"url": f"{hub.url}/{one.get('organization')}/{one['name']}"})
            elif self.path == "/api/validate-yaml":
                self.answer({"errors": [], "warnings": []})
            elif "/preupload/" in self.path:
                files = json.loads(data)["files"]
                modes = [
                    {
                        "path": one["path"],
                        "uploadMode": "lfs" if one["path"].endswith("safetensors") else "regular",
                        "shouldIgnore": False,
                    }
                    for one in files
                ]
                self.answer({"files": modes})
            elif self.path.endswith("/info/lfs/objects/batch"):
                self.answer(
                    {
                        "transfer": "basic",
                        "objects": [
                            one | {"actions": {"upload": {"href": f"{hub.url}/lfs/{one['oid']}"}}}
                            for one in json.loads(data)["objects"]
                        ],
                    }
                )
            elif "/commit/" in self.path:
                for line in map(json.loads, data.splitlines()):
                    value = line["value"]
                    if line["key"] == "file":
                        hub.files[value["path"]] = base64.b64decode(value["content"])
                    elif line["key"] == "lfsFile":
                        hub.files[value["path"]] = hub.stored[value["oid"]]
                repository = self.path.split("/api/models/")[1].split("/commit/")[0]
                self.answer(
                    {
                        "commitUrl": f"{hub.url}/{repository}/commit/{'0' * 40}",
                        "commitOid": "0" * 40,
                    }
                )
            else:
                self.answer({"error": f"unknown {self.path}"}, 404)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
