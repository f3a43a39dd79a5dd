"""Byte ranges over HTTP that outlast a dropped connection, a busy server and a slow one.

Flow: order -> streams (shards + **remote_files**) -> decode -> views -> loader. Whatever the server does, a read
gives exactly the bytes asked for or raises `InputError` with the address. Only addresses of the Hub carry the user's
token, and no server that they redirect to gets it.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from ...errors import InputError
from ...hub_token import mend_the_token, show_a_token
from ...retry import BUSY, call_with_retries, reason_of

if TYPE_CHECKING:
    from huggingface_hub.utils import httpx

T = TypeVar("T")

_LEAST_GAIN = 1 << 10  # bytes; a server that gives one and stalls, again and again, is gone
_OPENING_ATTEMPTS = 6  # half a minute, before anything is lost


@dataclass(frozen=True)
class RetryPolicy:
    """How long to put up with a server in the middle of a run. It is gone after `attempts` failures in a row, with next
    to nothing gained; silence of `timeout_s` is one, and a request is given up after `longest_read_s`, however much
    trickles in. The waits between attempts are those of `retry`."""

    attempts: int = 10
    timeout_s: float = 30.0
    longest_read_s: float = 600.0


RETRY = RetryPolicy()
"""About four minutes of patience. Set before a source is opened; its workers take the policy along."""


def is_remote(address: str) -> bool:
    """Whether this is an address of the web rather than a path."""
    return address.startswith(("https://", "http://"))


@dataclass(frozen=True)
class RemoteFile:
    """A file on a server, with the size and version that it had when the run began."""

    address: str
    size: int
    etag: str
    retry: RetryPolicy

    def read(self, start: int, length: int) -> bytes:
        """Bytes `start` to `start + length`."""
        received = bytearray()
        while len(received) < length:
            _ask(self._receive, "read", self.address, self.retry.attempts, received, start, length)
        return bytes(received[:length])

    def _receive(self, received: bytearray, start: int, length: int) -> None:
        """Append what one request yields; a `ConnectionError` or the HTTP library's where that is next to nothing."""
        from huggingface_hub.utils import httpx

        before, deadline = len(received), time.monotonic() + self.retry.longest_read_s
        try:
            with _get(self.address, start + before, start + length - 1, self.retry.timeout_s) as response:
                self._check_version(response)
                part = response.headers.get("content-range", "")
                if not part.removeprefix("bytes ").startswith(f"{start + before}-"):
                    raise ConnectionError(f"asked for bytes from {start + before} on, and got {part[:60]!r}")
                for piece in response.iter_raw():
                    received += piece
                    if len(received) >= length:  # whatever else it sends
                        return
                    if time.monotonic() > deadline:
                        raise ConnectionError(f"less than {length} bytes in {self.retry.longest_read_s:.0f} s")
            raise ConnectionError("the answer ended early")
        except (httpx.TransportError, ConnectionError):
            if len(received) - before < min(_LEAST_GAIN, (length - before + 3) // 4):
                raise

    def _check_version(self, response: "httpx.Response") -> None:
        total, etag = _total(response), response.headers.get("etag", "")
        if (total, etag) != (self.size, self.etag):
            sizes = f": {total} bytes instead of {self.size}"
            change = sizes if total != self.size else " since the run began (its ETag is another)"
            raise InputError(
                f"{plain_address(self.address)} has changed{change}. Start again with --resume auto, or from the "
                "version that the run began with"
            )


def open_remote(address: str) -> RemoteFile:
    """Ask a server for a file's size and version."""

    def ask() -> RemoteFile:
        with _get(address, 0, 0, RETRY.timeout_s) as response:
            return RemoteFile(address, _total(response), response.headers.get("etag", ""), RETRY)

    return _ask(ask, "opened", address, _OPENING_ATTEMPTS)


def _ask(function: Callable[..., T], done: str, address: str, attempts: int, *args: Any) -> T:
    """`call_with_retries`, whose last failure becomes an `InputError` with the address."""
    from huggingface_hub.utils import httpx

    name = plain_address(address)
    try:
        return call_with_retries(function, *args, what=name, attempts=attempts)
    except (httpx.HTTPError, httpx.InvalidURL, ConnectionError) as error:
        raise InputError(f"{name} could not be {done}: {reason_of(error)}. Is the source still there?") from error


@contextmanager
def _get(address: str, first: int, last: int, timeout_s: float) -> Iterator["httpx.Response"]:
    """The answer to a request for a range of bytes, its body not yet read; an `InputError` where the server refuses, or
    cannot send ranges."""
    from huggingface_hub.utils import build_hf_headers

    headers = build_hf_headers() if _is_of_the_hub(address) else {}
    headers |= {"Range": f"bytes={first}-{last}", "Accept-Encoding": "identity"}
    with _client(os.getpid(), timeout_s).stream("GET", address, headers=headers) as response:
        if response.status_code in BUSY:
            response.raise_for_status()
        _check_status(response, address)
        yield response


def _check_status(response: "httpx.Response", address: str) -> None:
    """Raise `InputError`, with what to do, for another answer than the range asked for."""
    name, status, of_the_hub = plain_address(address), response.status_code, _is_of_the_hub(address)
    if status in (401, 403):
        then = f"accept the data set's terms on its page, and {show_a_token()}"
        if not of_the_hub:
            then = "its server asks for rights that a run cannot show; download it and give the local copy"
        elif "credentials" in response.headers.get("X-Error-Message", ""):  # the answer to a token that there is not
            then = f"the Hub does not know your token; {mend_the_token()}"
        raise InputError(f"{name} refuses access (HTTP {status}): {then}")
    if status == 200:
        raise InputError(f"{name}: its server sends whole files only; download it and give the local copy")
    if status != 206:
        private = status == 404 and of_the_hub  # the Hub hides what one may not see
        then = f", or private: {show_a_token()}" if private else ""
        raise InputError(f"{name} is not there (HTTP {status}){then}")


def _total(response: "httpx.Response") -> int:
    """Size of the whole file, from `Content-Range: bytes 0-0/12345`."""
    total = response.headers.get("content-range", "").rpartition("/")[2]
    if not total.isdigit():
        raise InputError(f"{plain_address(str(response.url))}: its server does not say how large the file is")
    return int(total)


def _is_of_the_hub(address: str) -> bool:
    from huggingface_hub import constants

    return address.startswith(f"{constants.ENDPOINT}/")


def plain_address(address: str) -> str:
    """The address without what may open it: query, which may hold a signature, and name and password."""
    scheme, mark, rest = address.partition("?")[0].partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{mark}{host.rpartition('@')[2]}{slash}{path}"


def shown_data(data: str) -> str:
    """What the user gave as data, for a message: of an address what `plain_address` leaves."""
    return plain_address(data) if is_remote(data) else data


@lru_cache(maxsize=4)
def _client(_process: int, timeout_s: float) -> "httpx.Client":
    """One client a process: connections do not survive a fork. Its own redirects drop the token on another host."""
    from huggingface_hub.utils import httpx

    return httpx.Client(timeout=timeout_s, follow_redirects=True)
