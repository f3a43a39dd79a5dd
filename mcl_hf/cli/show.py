"""`mcl-hf show`: pictures of data, runs, montages and similarity; each sub-command is a file `show_NAME.py`."""

from importlib import import_module

from ..errors import InputError
from .command import command

PICTURES = {
    "data": "a contact sheet: images with their views and montages, near-duplicates, and the speed of each stage",
    "run": "curves of one or more runs as a picture, and a table of their last numbers",
    "montages": "the first montages that a run with these options would see",
    "similarity": "where an image holds regions like a given box, as a checkpoint sees it",
}


@command
def main(argv: list[str]) -> int | None:
    """Run the command."""
    if argv and argv[0] in PICTURES:
        return import_module(f"mcl_hf.cli.show_{argv[0]}").run(argv[1:])
    if argv and argv[0] not in ("-h", "--help"):
        raise InputError(f"mcl-hf show has no {argv[0]!r}: choose from {', '.join(PICTURES)}")
    width = max(map(len, PICTURES))
    print("usage: mcl-hf show PICTURE ...\n\npictures:")
    for name, summary in PICTURES.items():
        print(f"  {name:<{width}}  {summary}")
    print("\nmcl-hf show PICTURE --help tells more.")
    return 0 if argv else 2
