"""What to do about the Hub's token, in the same words wherever the Hub refuses something.

Source: huggingface_hub `utils/_auth.py`: a token of the environment goes before that of a login.
"""

import os


def token_variable() -> str | None:
    """The environment variable that the token comes from, which the client prefers to a login; None without one."""
    return next((name for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") if os.environ.get(name, "").strip()), None)


def is_unknown_token(error: BaseException) -> bool:
    """Whether the Hub has answered that it does not know the token; what is private answers otherwise."""
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    if not isinstance(error, HfHubHTTPError) or isinstance(error, RepositoryNotFoundError):
        return False
    return bool(error.response.status_code == 401)


def show_a_token() -> str:
    """What may help where something is private or gated, or is not there."""
    variable = token_variable()
    return f"check the token in {variable}, which goes before a login" if variable else "log in with 'hf auth login'"


def mend_the_token() -> str:
    """What to do where the Hub does not know the token."""
    variable = token_variable()
    return f"mend or unset {variable}, where it comes from" if variable else "log in again with 'hf auth login'"
