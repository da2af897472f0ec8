"""A Hugging Face hub on loopback that serves one model's safetensors the way the real one answers."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub(
    repository: str, weights: Path, *, hangs_up: bool = False, published: str | None = None
) -> Iterator[tuple[str, list[str]]]:
    """Serve while the block runs.

    Args:
        repository: e.g. timm/resnet18.a1_in1k.
        weights: served as its model.safetensors; everything else is not found.
        hangs_up: end every download in its middle.
        published: the SHA-256 that is announced; None for the file's own.

    Yields:
        The endpoint, and the list that requests are sum_parts to ("GET /path USER-AGENT").
    """
    content = weights.read_bytes()
    checksum = published or hashlib.sha256(content).hexdigest()
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            requests.append(f"{self.command} {self.path} {self.headers['User-Agent']}")
            found = self.path == f"/{repository}/resolve/main/model.safetensors"
            answer = content if found else b""
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", str(len(answer)))
            self.send_header("X-Repo-Commit", COMMIT)
            if found:
                self.send_header("ETag", f'"{checksum}"')
            else:
                self.send_header(
                    "X-Error-Code", "EntryNotFound" if self.path.startswith(f"/{repository}/") else "RepoNotFound"
                )
            self.end_headers()
            if body:
                self.wfile.write(answer[: len(answer) // 2] if hangs_up else answer)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
