"""A small Hub on the loopback interface, for the real clients: huggingface_hub, transformers, timm and datasets.

Flow: client (`HF_ENDPOINT`) -> **hub_server** (HTTP, tokens, faults) -> hub_routes -> hub_store (repositories).
Files go the LFS way: `HF_HUB_DISABLE_XET=1` is what clients set. `Hub` runs in a thread of the tests, or as a process:

    python tests/hub_server.py --port 0 --root DIR        # prints its address; DIR is taken up again by the next one

Faults are taken by the first requests that they fit (see `Fault`); `POST /-/faults` sets them from another process, and
`GET /-/requests` gives what was asked. Standard library only.
"""

import argparse
import os
import re
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

if not __package__:  # run as a file
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from tests.hub_routes import ROUTES, Answer, Call, route
from tests.hub_store import USERS, HubError, Repo, Store, User

KINDS = ("status", "reset", "close", "truncate", "lose", "slow", "corrupt")


@dataclass
class Fault:
    """What happens to the next requests whose method and path fit.

    Attributes:
        kind: `status`: answer `status`, do nothing; `reset`: TCP reset before the body is read; `close`: clean end
            without an answer, nothing done; `lose`: do it, then end (with `reset`: TCP reset); `truncate`: half of the
            answer's body, then end (or reset); `slow`: answer after `delay_s`; `corrupt`: the last byte of the
            answer's body is another one.
        method: of the request, or "" for any.
        path: regular expression that is searched for in the quoted path and query.
        count: how many requests; -1: all from now on.
        skip: how many fitting requests go well before.
        error: the Hub's word for it (`X-Error-Code`).
    """

    kind: str
    method: str = ""
    path: str = ""
    count: int = 1
    skip: int = 0
    status: int = 503
    retry_after: int | None = None
    message: str = "made to fail"
    error: str | None = None
    location: str = ""
    reset: bool = False
    delay_s: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no fault {self.kind!r}: {', '.join(KINDS)}")


@dataclass
class Request:
    """One thing that was asked, recorded before it is answered."""

    method: str
    path: str
    headers: dict[str, str]
    size: int
    user: str | None
    fault: str | None = None
    status: int | None = None


class Hub:
    """Start it with `with Hub(root) as hub`; `hub.endpoint` is the clients' `HF_ENDPOINT`.

    Attributes:
        store: repositories and limits, to look at and to fill.
        users: token -> user.
        requests: all that was asked.
        page_size: entries of a folder listing until the next page.
        cdn: whether LFS files are handed out by another origin, to which no token may go.
    """

    def __init__(self, root: Path, port: int = 0) -> None:
        self.users: dict[str, User] = dict(USERS)
        self.store = Store(root)
        self.port = port
        self.page_size = 1000
        self.cdn = False
        self.storage = ""  # address of the storage for large files; "": this server
        self.requests: list[Request] = []
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._http: ThreadingHTTPServer | None = None

    def __enter__(self) -> "Hub":
        self.come_back()
        return self

    def __exit__(self, *_: object) -> None:
        self.go_away()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def come_back(self) -> None:
        """Listen, on the same port as before."""
        if self._http is None:
            self._http = _Listener(("127.0.0.1", self.port), _Handler, self)
            self.port = self._http.server_address[1]
            threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def go_away(self) -> None:
        """Refuse every connection, and reset those that are open."""
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
            self._http = None
            with self._lock:
                sockets = list(self._sockets)
            for connection in sockets:
                _reset(connection, shut=True)

    def fault(self, kind: str, method: str = "", path: str = "", **options: Any) -> Fault:
        """Add a fault, behind those that wait; see `Fault`."""
        fault = Fault(kind, method, path, **options)
        with self._lock:
            self._faults.append(fault)
        return fault

    def forget(self) -> None:
        """Drop faults and records, come back where it was gone, and lift the limits; repositories stay."""
        with self._lock:
            self._faults.clear()
            self.requests.clear()
        self.users, self.page_size, self.cdn = dict(USERS), 1000, False
        self.store.max_file_bytes, self.store.max_storage_bytes = 50_000_000_000, None
        self.storage = ""
        self.come_back()

    def asked(self, method: str = "", path: str = "") -> list[Request]:
        """Requests of a method ("": any) whose path has a match."""
        return [one for one in list(self.requests) if method in ("", one.method) and re.search(path, one.path)]

    def waiting_faults(self) -> list[Fault]:
        """Those that nothing has met yet; a test of a fault that did not happen tests nothing."""
        return list(self._faults)

    def _record(self, request: Request) -> Fault | None:
        with self._lock:
            self.requests.append(request)
            for fault in self._faults:
                if fault.method in ("", request.method) and re.search(fault.path, request.path):
                    if fault.skip > 0:
                        fault.skip -= 1
                        continue
                    fault.count -= 1
                    if fault.count == 0:
                        self._faults.remove(fault)
                    request.fault = fault.kind
                    return fault
        return None

    # --- who may do what ----------------------------------------------------------------------------------------------
    def user(self, authorization: str | None) -> User | None:
        if not authorization:
            return None
        user = self.users.get(authorization.removeprefix("Bearer "))
        if user is None:
            raise HubError(401, "Invalid credentials in Authorization header")
        return user

    def must_write(self, user: User | None, namespace: str | None, what: str) -> User:
        """Raises 401 without a token, 403 with one that may not write or, where `namespace` is given, not there."""
        if user is None:
            raise HubError(401, "Invalid username or password.")
        if not user.write:
            raise HubError(403, f"Forbidden: you must use a write token to {what}.")
        if namespace is not None and not user.owns(namespace):
            raise HubError(403, f"Forbidden: you don't have the rights to {what} under the namespace {namespace}.")
        return user

    # --- routes -------------------------------------------------------------------------------------------------------
    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Answer:
        url = urlsplit(target)
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        for pattern, methods, function in ROUTES:
            match = pattern.fullmatch(url.path)
            if match and method in methods:
                needs_user = not url.path.startswith(("/-/", "/api/validate-yaml"))
                user = self.user(headers.get("authorization")) if needs_user else None
                named = {key: unquote(value or "") for key, value in match.groupdict().items()}
                if "type" in named:
                    named["type"] = named["type"].strip("/").removesuffix("s") or "model"
                return function(self, Call(method, named, query, headers, body, user))
        raise HubError(404, f"No route {method} {url.path}")


# --- for the tests ----------------------------------------------------------------------------------------------------
@route("POST", "/-/faults")
def _set_fault(hub: Hub, call: Call) -> Answer:
    hub.fault(**call.json())
    return Answer()


@route("GET", "/-/requests")
def _tell(hub: Hub, call: Call) -> Answer:
    return Answer.of([asdict(one) for one in hub.asked()])


# --- the wire ---------------------------------------------------------------------------------------------------------
class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], handler: Any, hub: Hub) -> None:
        self.hub = hub
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self.hub._lock:
            self.hub._sockets.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self.hub._lock:
            self.hub._sockets.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error of the server; anything else is printed."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def _reset(connection: socket.socket, shut: bool = False) -> None:
    """End a connection by a TCP reset rather than a clean close."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if shut:  # another thread waits in a read of it
            connection.shutdown(socket.SHUT_RD)
        os.close(connection.detach())
    except OSError:
        pass  # it is closed already


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    server: _Listener

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _serve(self) -> None:
        hub = self.server.hub
        headers = {name.lower(): value for name, value in self.headers.items()}
        token = headers.get("authorization", "").removeprefix("Bearer ")
        known = hub.users.get(token)
        size = int(headers.get("content-length") or 0)
        request = Request(self.command, self.path, headers, size, known.name if known else "?" if token else None)
        fault = None if self.path.startswith(("/-/faults", "/-/requests")) else hub._record(request)
        kind = fault.kind if fault else ""
        if fault and kind == "reset":
            self.close_connection = True
            return _reset(self.connection)
        if fault and kind == "slow":
            time.sleep(fault.delay_s)
        body = b"".join(self._body(headers))
        request.size = len(body)
        if kind == "close" or len(body) < size:
            self.close_connection = True
            return
        answer = self._answer(hub, fault, headers, body)
        if fault and kind == "lose":
            self.close_connection = True
            return _reset(self.connection) if fault.reset else None
        request.status = answer.status
        self._send(answer, fault if kind in ("truncate", "corrupt") else None)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _body(self, headers: dict[str, str]) -> Iterator[bytes]:
        if headers.get("transfer-encoding", "").lower() == "chunked":
            while length := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(length)
                self.rfile.readline()
            self.rfile.readline()
        else:
            yield self.rfile.read(int(headers.get("content-length") or 0))

    def _answer(self, hub: Hub, fault: Fault | None, headers: dict[str, str], body: bytes) -> Answer:
        try:
            if fault and fault.kind == "status":
                raise HubError(fault.status, fault.message, fault.error)
            return hub.answer(self.command, self.path, headers, body)
        except HubError as error:
            told = {"X-Error-Message": error.message}
            if error.code:
                told["X-Error-Code"] = error.code
            if fault and fault.retry_after is not None:
                told["Retry-After"] = str(fault.retry_after)
            if fault and fault.location:
                told["Location"] = fault.location
            return Answer.of(error.body or {"error": error.message}, error.status, **told)

    def _send(self, answer: Answer, cut: Fault | None) -> None:
        body = answer.body if answer.file is None else b"" if self.command == "HEAD" else answer.file.read_bytes()
        size = len(body) if answer.file is None else answer.file.stat().st_size
        self.send_response(answer.status)
        for name, value in {**answer.headers, "Content-Length": str(size)}.items():
            self.send_header(name, value)
        self.end_headers()
        if cut and cut.kind == "corrupt":
            body, cut = body[:-1] + bytes([body[-1] ^ 1]), None
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        self.wfile.flush()
        if cut:
            self.close_connection = True
            if cut.reset:
                time.sleep(0.05)  # a reset overtakes what the client has not read yet
                _reset(self.connection)


def titles(repo: Repo, revision: str = "main") -> Counter[str]:
    """How often each title stands in a history: twice is a commit that was made twice."""
    return Counter(one.title for one in repo.history(revision))


def main() -> None:
    parser = argparse.ArgumentParser(description="A small Hub for tests.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--root", type=Path, required=True, help="folder of its repositories")
    parser.add_argument("--print-requests", action="store_true", help="print method and path of each")
    arguments = parser.parse_args()
    with Hub(arguments.root, arguments.port) as hub:
        print(hub.endpoint, flush=True)
        printed = 0
        while True:
            time.sleep(0.2)
            while arguments.print_requests and printed < len(hub.requests):
                print(hub.requests[printed].method, hub.requests[printed].path, flush=True)
                printed += 1


if __name__ == "__main__":
    main()
