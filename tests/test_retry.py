"""Asking again: which errors pass, how long is waited, what is said, and that no token is in it."""

import email.utils
import logging
import time

import pytest
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from mcl_hf import retry as hub_retry
from mcl_hf.retry import asked_wait_s, call_with_retries, is_transient, reason_of, without_secrets

http = pytest.importorskip(HfHubHTTPError.__mro__[1].__module__.split(".")[0])  # httpx or httpx2


def answer(status: int, **headers: str) -> HfHubHTTPError:
    response = http.Response(status, headers=headers, request=http.Request("GET", "http://hub/api/models/u/n"))
    return HfHubHTTPError(f"{status} of the server", response=response)


def wrapped(inner: Exception, outer: Exception) -> Exception:
    try:
        raise outer from inner
    except Exception as error:
        return error


class Failing:
    """Raises the errors in turn, then returns what it was given."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.calls = list(errors), 0

    def __call__(self, *args: object, **kwargs: object) -> object:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return args, kwargs


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr(hub_retry.time, "sleep", found.append)
    return found


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        *((answer(status), True) for status in (408, 429, 500, 502, 503, 504)),
        *((answer(status), False) for status in (400, 401, 403, 404, 409, 412, 413)),
        (http.ReadError("reset"), True),
        (http.ConnectTimeout("slow"), True),
        (http.RemoteProtocolError("closed"), True),
        (http.UnsupportedProtocol("ftp"), False),
        (ConnectionResetError("reset"), True),
        (OfflineModeIsEnabled("offline"), False),
        (wrapped(OfflineModeIsEnabled("offline"), LocalEntryNotFoundError("not here")), False),
        (wrapped(http.ConnectError("refused"), LocalEntryNotFoundError("not here")), True),
        (wrapped(wrapped(answer(404), http.ReadError("later")), OSError("cannot load")), True),
        (wrapped(answer(404), OSError("cannot load")), False),
        (OSError("Consistency check failed: file should be of size 10 but has size 5"), True),
        (OSError("no such file"), False),
        (ValueError("wrong"), False),
    ],
)
def test_only_errors_that_may_pass_are_asked_again(error, passes, waits):
    assert is_transient(error) is passes
    function = Failing(error)
    if passes:
        assert call_with_retries(function, 1, what="fetching", key=2) == ((1,), {"key": 2})
        assert len(waits) == 1
    else:
        with pytest.raises(type(error)):
            call_with_retries(function, what="fetching")
        assert function.calls == 1 and not waits


def test_waits_double_with_jitter_and_end(waits):
    function = Failing(*[http.ReadError("reset")] * 9)
    with pytest.raises(http.ReadError):
        call_with_retries(function, what="fetching")
    assert function.calls == 6
    assert all(0.75 * 2**n <= wait <= 1.25 * 2**n for n, wait in enumerate(waits)) and len(waits) == 5
    assert len({wait / 2**n for n, wait in enumerate(waits)}) > 1


def test_what_the_server_asks_is_waited_for(waits):
    date = email.utils.formatdate(time.time() + 90, usegmt=True)
    limit = {"RateLimit": '"api";r=0;t=45'}
    call_with_retries(
        Failing(answer(429, **{"Retry-After": "30"}), answer(503, **{"Retry-After": date}), answer(429, **limit)),
        what="",
    )
    assert waits[0] == 30 and 85 < waits[1] <= 90 and waits[2] == 45
    assert asked_wait_s(answer(503)) == 0 and asked_wait_s(answer(429, **{"RateLimit": '"api";r=9;t=45'})) == 0
    with pytest.raises(HfHubHTTPError):
        call_with_retries(Failing(answer(429, **{"Retry-After": "4000"})), what="")
    assert len(waits) == 3


def test_one_line_a_retry_and_no_token_in_it(waits, caplog):
    errors = [answer(503, **{"X-Error-Message": "busy with hf_secret1"}), http.ReadError("to http://h/a?token=secret2")]
    with caplog.at_level(logging.WARNING):
        call_with_retries(Failing(*errors), what="fetching user/name")
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split("; ")[0] for line in lines] == [
        "fetching user/name: the Hub answers 503 (busy with hf_***)",
        "fetching user/name: ReadError to http://h/a",
    ]
    assert "attempt 2 of 6" in lines[0] and "attempt 3 of 6" in lines[1]


def test_the_reason_is_what_broke():
    assert reason_of(wrapped(http.ConnectError("refused"), OSError("We couldn't connect"))) == "ConnectError refused"
    assert without_secrets("Authorization: Bearer abc123\nnext") == "Authorization: Bearer hf_*** next"
