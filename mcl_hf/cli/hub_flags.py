"""Flags that several commands share: those of cards, and `--push-to-hub` of the commands that train, with the callback
that comes of it.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import InputError

CARD_FLAGS = {
    "data_license": "--data-license", "data_name": "--data-name", "evaluations": "--evaluation",
    "pictures_of_data": "--with-pictures-of-data", "title": "--title", "license": "--license",
}  # fmt: skip
"""Name of `render_card`'s argument -> flag."""


def add_card_flags(parser: argparse._ActionsContainer, named_after: str) -> None:
    """Add the flags of cards; without `--title` one is named after that."""
    parser.add_argument("--title", metavar="TEXT", help=f"first heading (default: the {named_after}'s name)")
    parser.add_argument(
        "--license", metavar="NAME", help="of the weights, as the Hub names it (default: none is claimed)"
    )
    parser.add_argument("--data-license", metavar="TEXT", help="of the training data (default: as recorded, if it was)")
    parser.add_argument("--data-name", metavar="TEXT", help="what to call the training data (default: as recorded)")
    parser.add_argument(
        "--evaluation", dest="evaluations", action="extend", nargs="+", type=Path, default=[], metavar="FILE",
        help="further results: metrics.json of evaluate or finetune, comparison.json of compare, probe.json",
    )  # fmt: skip
    parser.add_argument(
        "--with-pictures-of-data", dest="pictures_of_data", action="store_true",
        help="also show, and in a push publish, pictures in which images of the data are seen",
    )  # fmt: skip


def add_hub_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of pushing beside training."""
    group = parser.add_argument_group("publishing", "beside training; what the Hub refuses costs a warning")
    group.add_argument(
        "--push-to-hub", metavar="USER/NAME",
        help="push every checkpoint, as many as are kept here, and the finished model with its card",
    )  # fmt: skip
    group.add_argument("--hub-public", action="store_true", help="make a new repository public (default: private)")
    group.add_argument("--hub-private", action="store_true", help="refuse a repository that is there and public")


@contextmanager
def hub_callbacks(namespace: argparse.Namespace, arguments: Any) -> Iterator[list[Any]]:
    """What is to be hung into the loop of a run with these arguments, last; leaving waits for what is still being
    pushed.

    Raises:
        InputError: token, permission or repository stand in the way, or a flag that needs the other.
    """
    public, private = namespace.hub_public, namespace.hub_private
    if namespace.push_to_hub is None:
        if public or private:
            name = "--hub-public" if public else "--hub-private"
            raise InputError(f"{name} belongs to --push-to-hub, which is not given")
        yield []
        return
    if public and private:
        raise InputError("--hub-public and --hub-private are both given: leave one of them out")
    from ..engine.state import checkpoints
    from ..hub.background import PushToHub

    continues = arguments.resume != "never"  # whether the run goes on from a checkpoint
    if arguments.resume == "auto":
        continues = arguments.output_dir is not None and bool(checkpoints(Path(arguments.output_dir).expanduser()))
    with PushToHub(namespace.push_to_hub, public=public, private=private, continues=continues) as push:
        yield [push]
