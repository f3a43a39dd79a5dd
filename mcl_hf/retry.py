"""Ask the Hub, or another server, again where an answer may still come, and only there.

Before every request that the Hub's client makes once: files' first bytes, model info, repositories, commits. What it
repeats by itself (uploads, listings) is repeated there first, what is left over here.

    streams of data, checkpoints, `from_pretrained`, publishing -> **retry** -> huggingface_hub, httpx
"""

import email.utils
import functools
import logging
import random
import re
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import get_token
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import httpx  # whichever library of this kind the client uses

T = TypeVar("T")

BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers after which the same request may succeed."""

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 60.0
LONGEST_RETRY_AFTER_S = 600.0
"""Whoever is told to wait longer than this is told so, and waits by themselves."""

_LOST = (httpx.NetworkError, httpx.TimeoutException, httpx.RemoteProtocolError, ConnectionError, TimeoutError)
_TOKEN = re.compile(r"hf_\w+|(?<=[Bb]earer )\S+")
_LOGIN = re.compile(r"(?<=://)[^\s/@]+@")
_QUERY = re.compile(r"(https?://[^\s?'\"]+)\?[^\s'\"]*")

_inside: ContextVar[bool] = ContextVar("inside", default=False)  # a model loads its configuration: one patience for all

logger = logging.getLogger(__name__)


def call_with_retries(
    function: Callable[..., T],
    *args: Any,
    what: str,
    attempts: int = 6,
    passes: Callable[[BaseException], bool] | None = None,
    **kwargs: Any,
) -> T:
    """What `function` returns, asked again after errors that may pass, with one warning for each, that begins with
    `what`.

    The waits double from 1 s, each lengthened or shortened by up to a quarter at random, so that the processes of a run
    do not come back together; half a minute in all for six attempts. What the server asks for (`Retry-After`, or the
    reset of its rate limit) is waited for. An error that will not pass (by `passes`, or `is_transient`), and that of
    the last attempt, are raised.

    `function` may be called any number of times: whoever makes something must see what an earlier call made, as its
    answer may have been lost.
    """
    for attempt in range(1, attempts + 1):
        try:
            return function(*args, **kwargs)
        except Exception as error:
            asked = asked_wait_s(error)
            if attempt == attempts or not (passes or is_transient)(error) or asked > LONGEST_RETRY_AFTER_S:
                raise
            doubled = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (attempt - 1))
            wait_s = max(asked, doubled * random.SystemRandom().uniform(0.75, 1.25))  # nobody's seed is touched
            then = f"trying again in {wait_s:.0f} s (attempt {attempt + 1} of {attempts})"
            logger.warning("%s: %s; %s", what, reason_of(error), then)
            time.sleep(wait_s)
    raise ValueError(f"attempts must be at least 1, got {attempts}")


def load_patiently(kind: Any) -> None:
    """Let `from_pretrained` of a class, and of those that inherit it, ask the Hub again while it is away, and only for
    what can be a repository `user/name`: all else is a folder that is not there. transformers asks for a file's headers
    once and for its contents once: one reset connection ends it otherwise."""
    load = kind.from_pretrained.__func__

    @functools.wraps(load)
    def from_pretrained(cls: Any, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        name = pretrained_model_name_or_path
        if _inside.get() or name is None or Path(name).exists():
            return load(cls, name, *args, **kwargs)
        if str(name).count("/") != 1 or str(name).startswith((".", "/", "~")):
            raise OSError(f"there is no folder {name} here, and no repository on the Hub is called so: check the name")
        token = _inside.set(True)
        try:
            return call_with_retries(load, cls, name, *args, what=f"loading {cls.__name__} from {name}", **kwargs)
        finally:
            _inside.reset(token)

    kind.from_pretrained = classmethod(from_pretrained)


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed later: the server is busy, or the connection broke. Errors that the client has
    wrapped are looked into; the first that tells decides. Offline mode, missing rights and what is not there do not
    pass."""
    for one in chain(error):
        if isinstance(one, OfflineModeIsEnabled):
            return False
        if (answer := _answer_of(one)) is not None:
            return answer.status_code in BUSY
        if isinstance(one, _LOST):
            return True
        if isinstance(one, OSError) and "Consistency check failed" in str(one):  # fewer bytes came than were announced
            return True
    return False


def asked_wait_s(error: BaseException) -> float:
    """Seconds that the server asked to wait, 0 where it did not."""
    for one in chain(error):
        if (answer := _answer_of(one)) is not None:
            headers = answer.headers
            return max(_seconds(headers.get("Retry-After", "")), _reset_s(headers, answer.status_code))
    return 0.0


def reason_of(error: BaseException) -> str:
    """An error in one line without tokens: what broke, rather than what the client makes of it."""
    for one in chain(error):
        if (answer := _answer_of(one)) is not None:
            said = answer.headers.get("X-Error-Message") or answer.reason_phrase
            who = "the Hub" if isinstance(one, HfHubHTTPError) else "the server"
            return without_secrets(f"{who} answers {answer.status_code} ({said})")
        if isinstance(one, _LOST):
            return without_secrets(f"{type(one).__name__} {one}".strip())
    return without_secrets(str(error) or type(error).__name__)


def without_secrets(text: str) -> str:
    """The text in one line without control characters, tokens masked (the user's own, too, whatever it looks like), and
    addresses without user and password and without their query, which may be signed."""
    own = get_token()
    masked = _TOKEN.sub("hf_***", text.replace(own, "hf_***") if own else text)
    words = " ".join(_QUERY.sub(r"\1", _LOGIN.sub("", masked)).split())
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in words)


def chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those behind it, the newest first."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = following.__cause__ or (None if following.__suppress_context__ else following.__context__)


def _answer_of(error: BaseException) -> Any:
    """The response that an error of the Hub's client, or of the HTTP library, tells of; None where none came."""
    return getattr(error, "response", None) if is_of_http(error) else None


def is_of_http(error: BaseException) -> bool:
    """Whether the error is one of the HTTP library that the client uses, as the client's own with an answer are."""
    return isinstance(error, httpx.HTTPError | httpx.InvalidURL)


def _seconds(text: str) -> float:
    """A `Retry-After` header: seconds, or a date."""
    if text.strip().isdigit():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return 0.0


def _reset_s(headers: Any, status: int) -> float:
    """When the Hub's rate limit starts anew, as it says in an answer 429 (`RateLimit: "api";r=0;t=30`)."""
    match = re.search(r"\br=0;\s*t=(\d+)", headers.get("RateLimit", "")) if status == 429 else None
    return float(match[1]) if match else 0.0
