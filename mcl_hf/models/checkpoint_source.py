"""Where a checkpoint lies: a file or folder here, or a repository of the Hub, which is fetched.

Before every reader of weights: `starting_weights`, exports, detectors.
"""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download


def local_checkpoint(source: str, patterns: Sequence[str], others: str = "") -> Path:
    """The file or folder of a checkpoint on this machine.

    Args:
        source: A path, or a repository `user/name`.
        patterns: Files of a repository that are fetched, as globs.
        others: What else the caller would have taken, for the message: `"timm:NAME, "`.

    Raises:
        ValueError: One line: neither a path nor a repository's name, or the Hub does not give it.
    """
    path = Path(source)
    if path.exists():
        return path
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise ValueError(f"no checkpoint at {source}: neither {others}a file, a folder nor a repository user/name")
    try:
        return Path(snapshot_download(source, allow_patterns=list(patterns)))
    except Exception as error:  # the client raises many types: offline, no such repository, no permission
        raise ValueError(f"cannot fetch {source} from the Hub: {str(error).splitlines()[0]}") from error


__all__ = ["local_checkpoint"]
