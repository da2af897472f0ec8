"""A local substitute for IDC's bucket: moto's S3 server, with a log of requests; it can be blocked."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest

BUCKET = "idc-open-data"


class StandIn:
    """An S3 service on the loopback interface.

    Attributes:
        endpoint: its URL.
        requests: method and path of every request so far.
        n_served: number of objects before further ones wait for `open_again`; None never waits.
    """

    def __init__(self) -> None:
        boto3 = pytest.importorskip("boto3")
        moto = pytest.importorskip("moto.moto_server.werkzeug_app", reason="pip install 'moto[s3,server]'")
        serving = pytest.importorskip("werkzeug.serving")
        # Requests are logged here; werkzeug would print a line for each as well.
        logging.getLogger("werkzeug").setLevel(logging.ERROR)

        self.requests: list[tuple[str, str]] = []
        self.n_served: int | None = None
        self._moto = moto.DomainDispatcherApplication(moto.create_backend_app)
        self._lock = threading.Lock()
        self._opened = threading.Event()
        self._server = serving.make_server("127.0.0.1", 0, self._door, threaded=True)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self._client = boto3.client(
            "s3", endpoint_url=self.endpoint, region_name="us-east-1",
            aws_access_key_id="anyone", aws_secret_access_key="anything",
        )  # fmt: skip
        self._stored: dict[str, bytes] = {}
        pytest.importorskip("moto.s3.models").s3_backends.reset()  # of an earlier one in this process
        self._client.create_bucket(Bucket=BUCKET)

    def _door(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        with self._lock:
            self.requests.append((method, path))
            shut = self.n_served is not None and len(self.objects()) > self.n_served
        if shut and _is_object(method, path):
            self._opened.wait()
        return self._moto(environ, start_response)  # type: ignore[no-any-return]

    def objects(self) -> list[str]:
        """Keys of the requested objects, without the bucket."""
        return [path.removeprefix(f"/{BUCKET}/") for method, path in self.requests if _is_object(method, path)]

    def put(self, key: str, content: bytes) -> None:
        """Store a public object."""
        self._client.put_object(Bucket=BUCKET, Key=key, Body=content, ACL="public-read")
        self._stored[key] = content

    def hold(self, objects: Mapping[str, bytes]) -> None:
        """Store these objects and no others, and forget all requests."""
        for key in self._stored.keys() - objects.keys():
            self._client.delete_object(Bucket=BUCKET, Key=key)
            del self._stored[key]
        for key, content in objects.items():
            if self._stored.get(key) != content:
                self.put(key, content)
        self.requests.clear()
        self.n_served = None
        self._opened.clear()

    def open_again(self) -> None:
        """Serve waiting and further requests."""
        self.n_served = None
        self._opened.set()

    def close(self) -> None:
        self.open_again()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _is_object(method: str, path: str) -> bool:
    return method == "GET" and path.endswith(".dcm")
