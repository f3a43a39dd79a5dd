"""A web server on the loopback interface that serves a folder by ranges, and fails on demand."""

import contextlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Server:
    """`faults` are taken one a request, from the front: drop, busy, slow, trickle (a byte, and silence), shifted
    (other bytes than asked for), flood (a body without an end), loop (a redirect to itself), or none; `gone` answers
    404 to all; `version` is part of every ETag.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.faults: list[str] = []
        self.happened: list[str] = []
        self.gone = False
        self.version = ""
        self.ranges = True
        self.requests = 0
        self.bytes_sent = 0
        self.slow_s = 1.0
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, *_arguments: object) -> None:
                """Say nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        with self._lock:
            self.requests += 1
            fault = self.faults.pop(0) if self.faults else "none"
            self.happened += [fault] if fault != "none" else []
        if handler.path.startswith("/api/datasets/"):
            return self._list(handler)
        path = self.root / re.sub(r"^/datasets/[^/]+/[^/]+/resolve/[^/]+/", "", handler.path.partition("?")[0]).lstrip(
            "/"
        )
        if self.gone or not path.is_file():
            return self._send(handler, 404, b"")
        if fault == "busy":
            return self._send(handler, 503, b"try again")
        if fault == "loop":
            handler.send_response(302)
            handler.send_header("Location", handler.path)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return None
        data = path.read_bytes()
        if not self.ranges:
            return self._send(handler, 200, data)
        first, last = (int(number) for number in handler.headers["Range"].removeprefix("bytes=").split("-"))
        last = min(last, len(data) - 1)
        body = data[first : last + 1]
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes {first + (fault == 'shifted')}-{last}/{len(data)}")
        if fault == "flood":
            handler.close_connection = True
        else:
            handler.send_header("Content-Length", str(len(body)))
        handler.send_header("ETag", f'"{len(data)}{self.version}"')
        handler.end_headers()
        if fault == "trickle":
            handler.wfile.write(body[:1])
            handler.wfile.flush()
            time.sleep(self.slow_s)
            handler.close_connection = True
            return None
        if fault == "flood":
            with contextlib.suppress(OSError):
                while True:
                    handler.wfile.write(body)
                    self.bytes_sent += len(body)
        if fault in ("drop", "slow"):
            handler.wfile.write(body[: len(body) // 2])
            handler.wfile.flush()
            if fault == "drop":
                handler.close_connection = True
                return None
            time.sleep(self.slow_s)
            body = body[len(body) // 2 :]
        try:
            handler.wfile.write(body)
        except OSError:  # the client has given up on a slow answer
            handler.close_connection = True
        with self._lock:
            self.bytes_sent += len(body)
        return None

    def _list(self, handler: BaseHTTPRequestHandler) -> None:
        """What the Hub tells about a data set."""
        if "/user/images" not in handler.path:
            handler.send_response(404)
            handler.send_header("X-Error-Code", "RepoNotFound")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        names = [str(path.relative_to(self.root)) for path in sorted(self.root.rglob("*")) if path.is_file()]
        answer = {"id": "user/images", "sha": "c0ffee", "siblings": [{"rfilename": name} for name in names]}
        self._send(handler, 200, json.dumps(answer).encode(), "application/json")

    def _send(
        self, handler: BaseHTTPRequestHandler, status: int, body: bytes, kind: str = "application/octet-stream"
    ) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)


@contextmanager
def serving(root: Path) -> Iterator[Server]:
    server = Server(root)
    try:
        yield server
    finally:
        server.close()
