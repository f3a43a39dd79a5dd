"""`--push-to-hub` of the commands that train: what it adds to their parsers, and the callback that comes of it."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import InputError


def add_hub_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    group = parser.add_argument_group("publishing", "beside training; what the Hub refuses costs a warning")
    group.add_argument(
        "--push-to-hub", metavar="USER/NAME",
        help="push every checkpoint, as many as are kept here, and the finished model with its card",
    )  # fmt: skip
    group.add_argument("--hub-public", action="store_true", help="make a new repository public (default: private)")
    group.add_argument("--hub-private", action="store_true", help="refuse a repository that is there and public")


@contextmanager
def hub_callbacks(namespace: argparse.Namespace, arguments: Any) -> Iterator[list[Any]]:
    """What is to be hung into the loop, last; leaving waits for what is still being pushed.

    Args:
        namespace: with the flags.
        arguments: of the run.

    Raises:
        InputError: token, permission or repository stand in the way, or a flag that needs the other.
    """
    if namespace.push_to_hub is None:
        for name in ("public", "private"):
            if getattr(namespace, f"hub_{name}"):
                raise InputError(f"--hub-{name} belongs to --push-to-hub, which is not given")
        yield []
        return
    from ..engine.state import checkpoints
    from ..hub.background import PushToHub

    if namespace.hub_public and namespace.hub_private:
        raise InputError("--hub-public and --hub-private are both given: leave one of them out")
    continues = arguments.resume != "never"  # whether the run goes on from a checkpoint
    if arguments.resume == "auto":
        continues = arguments.output_dir is not None and bool(checkpoints(Path(arguments.output_dir).expanduser()))
    seen = {"public": namespace.hub_public, "private": namespace.hub_private}
    with PushToHub(namespace.push_to_hub, continues=continues, **seen) as push:
        yield [push]
