"""What the Hub or its client refuses, as one line that says what to do, and never with a token in it.

Where it sits: around every request of `repository.py`. The client raises many types, whose texts span lines and hold
addresses; here they become an `InputError`, or a `HubAwayError` where trying again later may help.

Source: huggingface_hub `errors.py`, `utils/_http.py`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

from ..errors import InputError
from ..hub_token import mend_the_token
from ..retry import chain, is_of_http, is_transient, reason_of, without_secrets


class HubAwayError(InputError):
    """The Hub did not answer, or had no time: the same may work later."""


@contextmanager
def one_line(repository: str, doing: str) -> Iterator[None]:
    """Turn what the client raises inside the block into one line, an `InputError` or a `HubAwayError`; what is no
    matter of the Hub passes. `doing` is for the message, as in "reading"."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if is_transient(error):
            away = f"{reason_of(error)}; try again later"
            if not isinstance(error, HfHubHTTPError):
                away = f"{constants.ENDPOINT} cannot be reached ({reason_of(error)})"
            raise HubAwayError(without_secrets(f"{doing} {repository}: {away}")) from error
        if isinstance(error, LocalTokenNotFoundError):
            raise InputError("there is no token for the Hub: log in with 'hf auth login', or set HF_TOKEN") from error
        if isinstance(error, OfflineModeIsEnabled):
            raise InputError(f"HF_HUB_OFFLINE is set, and {doing} {repository} needs the network: unset it") from error
        if isinstance(error, HFValidationError):
            raise InputError(without_secrets(str(error))) from error
        for one in chain(error) if isinstance(error, RuntimeError) else [error]:  # so it wraps what storage answers
            if isinstance(one, HfHubHTTPError):
                raise InputError(without_secrets(_refusal(one, repository, doing))) from error
            if is_of_http(one):  # redirects without end, an address that is none
                raise InputError(without_secrets(f"{doing} {repository}: {type(one).__name__} {one}")) from error
        raise


def _refusal(error: HfHubHTTPError, repository: str, doing: str) -> str:
    status, headers = error.response.status_code, error.response.headers
    said = error.server_message or headers.get("X-Error-Message") or error.response.reason_phrase
    said = " ".join(str(said).split()).rstrip(".")[:300]
    if status == 401 and "whoami" in str(error.response.url):
        return f"the Hub does not know your token; {mend_the_token()}"
    if headers.get("X-Error-Code") == "GatedRepo":
        return (
            f"{doing} {repository}: it is gated: ask for access on its page, and use a token of an account that has it"
        )
    if status == 401 or headers.get("X-Error-Code") == "RepoNotFound":
        return f"{doing} {repository}: there is no such repository that your token may see"
    if status == 403:
        return f"{doing} {repository}: the Hub forbids it ({said})"
    if status == 409:
        return f"{doing} {repository}: the name is taken, by what your token may not see ({said}); choose another"
    if status == 413:
        return f"{doing} {repository}: too large for the Hub ({said})"
    return f"{doing} {repository}: the Hub answers {status} ({said})"
