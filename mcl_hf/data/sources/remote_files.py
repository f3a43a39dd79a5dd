"""Byte ranges over HTTP that outlast a dropped connection, a busy server and a slow one.

Flow: stream_order -> streams (shards + **remote**) -> decode -> views -> loader. Whatever the server does, a read gives
exactly the bytes asked for or raises `InputError` with the address. Addresses of the Hub carry the user's token, and
keep it from any server that they redirect to.
"""

import io
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from ...errors import InputError
from ...hub_token import mend_the_token, show_a_token

if TYPE_CHECKING:
    from huggingface_hub.utils import httpx

T = TypeVar("T")

_BUFFER_BYTES = 4 << 20
_LEAST_GAIN = 1 << 10  # bytes; a server that gives one and stalls, again and again, is gone
_BUSY = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class RetryPolicy:
    """How long to put up with a server.

    Attributes:
        attempts: failures in a row, with next to nothing gained, after which it counts as gone.
        first_wait_s: pause after the first failure; doubles with every further one.
        longest_wait_s: upper bound of a pause.
        timeout_s: silence that counts as a failure.
        longest_read_s: time after which one request is given up, however much trickles in.
    """

    attempts: int = 10
    first_wait_s: float = 0.5
    longest_wait_s: float = 60.0
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
        """Bytes ``start`` to ``start + length``.

        Raises:
            InputError: the file is gone, has changed, or its server has answered nothing for too long.
        """
        received = bytearray()
        failures = 0
        while len(received) < length:
            before = len(received)
            reason = self._receive(received, start, length)
            gained, enough = len(received) - before, min(_LEAST_GAIN, (length - before + 3) // 4)
            failures = 0 if reason is None or gained >= enough else failures
            if reason is None:
                continue
            failures += 1
            if failures >= self.retry.attempts:
                raise InputError(
                    f"{plain_address(self.address)} could not be read after {failures} attempts: {reason}. "
                    "Is the source still there?"
                )
            time.sleep(min(self.retry.longest_wait_s, self.retry.first_wait_s * 2 ** (failures - 1)))
        return bytes(received[:length])

    def _receive(self, received: bytearray, start: int, length: int) -> str | None:
        """Append what one request yields; the reason where it yields less than it should."""
        from huggingface_hub.utils import httpx

        first, last = start + len(received), start + length - 1
        deadline = time.monotonic() + self.retry.longest_read_s
        headers = {**_headers(self.address), "Range": f"bytes={first}-{last}", "Accept-Encoding": "identity"}
        try:
            with _client(os.getpid(), self.retry.timeout_s).stream("GET", self.address, headers=headers) as response:
                if response.status_code in _BUSY:
                    return f"HTTP {response.status_code}"
                _check(response, self.address)
                total = _total(response)
                if total != self.size:
                    raise InputError(
                        f"{plain_address(self.address)} has changed: {total} bytes instead of {self.size}. "
                        "Start again with --resume auto, or from the version that the run began with."
                    )
                etag, start_of = response.headers.get("etag", ""), response.headers.get("content-range", "")
                if etag != self.etag:
                    raise InputError(
                        f"{plain_address(self.address)} has changed since the run began (its ETag is another). Start "
                        "again with --resume auto, or from the version that the run began with."
                    )
                if not start_of.removeprefix("bytes ").startswith(f"{first}-"):
                    return f"asked for bytes from {first} on, and got {start_of[:60]!r}"
                for piece in response.iter_raw():
                    received += piece
                    if len(received) >= length:  # whatever else it sends
                        break
                    if time.monotonic() > deadline:
                        return f"less than {length} bytes in {self.retry.longest_read_s:.0f} s"
        except (httpx.TransportError, httpx.StreamError) as error:
            return f"{type(error).__name__} {error}".strip()
        return None if len(received) >= length else "the answer ended early"


def open_remote(address: str, retry: RetryPolicy | None = None) -> RemoteFile:
    """Ask a server for a file's size and version.

    Raises:
        InputError: there is no such file, no such server, or one that cannot send parts of a file.
    """
    from huggingface_hub.utils import httpx

    policy = RETRY if retry is None else retry
    headers = {**_headers(address), "Range": "bytes=0-0", "Accept-Encoding": "identity"}
    reason = ""
    for attempt in range(policy.attempts):
        if attempt:
            time.sleep(min(policy.longest_wait_s, policy.first_wait_s * 2 ** (attempt - 1)))
        try:
            with _client(os.getpid(), policy.timeout_s).stream("GET", address, headers=headers) as response:
                if response.status_code not in _BUSY:
                    _check(response, address)
                    return RemoteFile(address, _total(response), response.headers.get("etag", ""), policy)
                reason = f"HTTP {response.status_code}"
        except httpx.UnsupportedProtocol as error:
            raise InputError(f"{plain_address(address)} is no address that can be read: {error}") from error
        except httpx.TransportError as error:
            reason = f"{type(error).__name__} {error}".strip()
    raise InputError(f"{plain_address(address)} could not be opened after {policy.attempts} attempts: {reason}.")


def patiently(ask: Callable[[], T]) -> T:
    """What the Hub's client answers, asked again while the Hub is busy or out of reach: it asks only once by itself.

    Raises:
        Exception: whatever the client raises that will not pass, or raised in the last attempt of `RETRY`.
    """
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    for attempt in range(1, RETRY.attempts + 1):
        try:
            return ask()
        except OfflineModeIsEnabled:
            raise
        except Exception as error:
            if isinstance(error, HfHubHTTPError):
                passes = error.response.status_code in _BUSY
            else:  # of whichever HTTP library the client uses: httpx or httpx2
                passes = any(kind.__name__ == "TransportError" for kind in type(error).__mro__)
            if not passes or attempt == RETRY.attempts:
                raise
        time.sleep(min(RETRY.longest_wait_s, RETRY.first_wait_s * 2 ** (attempt - 1)))
    raise ValueError(f"attempts must be at least 1, got {RETRY.attempts}")


class RangeFile(io.RawIOBase):
    """A `RemoteFile` as a seekable file, for libraries that read one."""

    def __init__(self, file: RemoteFile) -> None:
        self._file, self._at = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._file.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        length = min(len(buffer), self._file.size - self._at)
        if length <= 0:
            return 0
        buffer[:length] = self._file.read(self._at, length)
        self._at += length
        return length


def open_binary(file: "RemoteFile | Path", buffered: bool = False) -> BinaryIO:
    """A local or remote file for reading; ``buffered`` fetches 4 MiB at a time, for going through it from the front."""
    if isinstance(file, Path):
        return file.open("rb")
    raw = RangeFile(file)
    return io.BufferedReader(raw, _BUFFER_BYTES) if buffered else raw  # type: ignore[return-value]


def _check(response: "httpx.Response", address: str) -> None:
    if response.status_code in (401, 403):
        then = _how_to_get_in(response, address)
        raise InputError(f"{plain_address(address)} refuses access (HTTP {response.status_code}): {then}.")
    if response.status_code == 200:
        raise InputError(
            f"{plain_address(address)}: its server sends whole files only; download it and give the local copy."
        )
    if response.status_code != 206:
        private = response.status_code == 404 and _is_of_the_hub(address)  # the Hub hides what one may not see
        then = f", or private: {show_a_token()}" if private else ""
        raise InputError(f"{plain_address(address)} is not there (HTTP {response.status_code}){then}.")


def _how_to_get_in(response: "httpx.Response", address: str) -> str:
    """What to do where access is refused."""
    if not _is_of_the_hub(address):
        return "its server asks for rights that a run cannot show; download it and give the local copy"
    if "credentials" in response.headers.get("X-Error-Message", ""):  # the Hub's answer to a token that there is not
        return f"the Hub does not know your token; {mend_the_token()}"
    return f"accept the data set's terms on its page, and {show_a_token()}"


def _total(response: "httpx.Response") -> int:
    """Size of the whole file, from ``Content-Range: bytes 0-0/12345``."""
    total = response.headers.get("content-range", "").rpartition("/")[2]
    if not total.isdigit():
        raise InputError(f"{plain_address(str(response.url))}: its server does not say how large the file is.")
    return int(total)


def _headers(address: str) -> dict[str, str]:
    from huggingface_hub.utils import build_hf_headers

    return build_hf_headers() if _is_of_the_hub(address) else {}


def _is_of_the_hub(address: str) -> bool:
    from huggingface_hub import constants

    return address.startswith(f"{constants.ENDPOINT}/")


def plain_address(address: str) -> str:
    """The address without what may open it: query, which may hold a signature, and name and password."""
    scheme, mark, rest = address.partition("?")[0].partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{mark}{host.rpartition('@')[2]}{slash}{path}"


@lru_cache(maxsize=4)
def _client(_process: int, timeout_s: float) -> "httpx.Client":
    """One client a process: connections do not survive a fork. Its own redirects drop the token on another host."""
    from huggingface_hub.utils import httpx

    return httpx.Client(timeout=timeout_s, follow_redirects=True)
