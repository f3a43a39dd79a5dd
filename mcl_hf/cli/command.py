"""What every command shares: a parser whose errors are one line, and the one place where errors become exit codes."""

import argparse
import difflib
import errno
import functools
import itertools
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from ..errors import InputError
from ..given import from_home
from ..new_folder import missing_folders, remove_empty
from ..plain_text import plain_text
from ..startup import check_torch_and_torchvision, expect_interrupts_again

if TYPE_CHECKING:
    from PIL import Image

NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `InputError` where argparse would print its usage and leave; examples in its texts
    keep their lines, and options have no short forms."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)
        self.register("type", Path, _path)  # groups have it from here

    def error(self, message: str) -> NoReturn:
        mistyped = re.match(r"unrecognized arguments: .*?(--[^\s=]+)", message)
        close = difflib.get_close_matches(mistyped[1], self._option_string_actions, n=1) if mistyped else []
        raise InputError(f"{message}{f': did you mean {close[0]}?' if close else ''} (see {self.prog} --help)")


def _path(text: str) -> Path:
    if not text:  # an unset variable of a shell would be the current folder
        raise argparse.ArgumentTypeError("is empty: give a value, or leave it out")
    return Path(from_home(text))


def import_torch() -> None:
    """See that torch and torchvision fit each other, and silence transformers' bars. Called once options are read and
    checked, before a command imports what it works with: its help and a mistyped option answer at once."""
    check_torch_and_torchvision()
    from transformers.utils import logging

    logging.disable_progress_bar()  # bars for loading and writing would break up the run's own


def run_command(run: Callable[[list[str]], int | None], argv: Sequence[str] | None = None) -> int:
    """Run a command's body, which takes the arguments (None: the process's own) and returns an exit code or None for 0,
    and turn what the user can mend into one line on stderr.

    Returns:
        0, or 2 after an `InputError`, a full disk or the end of a data worker, or 130 after Ctrl-C. Anything else is a
        fault of this library and keeps its traceback.
    """
    expect_interrupts_again()
    os.environ["MPLBACKEND"] = "agg"  # pictures go to files; a notebook names a backend that only its kernel may have
    try:
        return run(list(sys.argv[1:] if argv is None else argv)) or 0
    except InputError as error:
        return _fail(" ".join([str(error), *getattr(error, "__notes__", [])]))
    except KeyboardInterrupt:
        print("mcl-hf: interrupted", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            return _fail(f"{error.strerror}: {error.filename}")
        if error.errno not in NO_SPACE:
            raise
        place = f" for {error.filename}" if error.filename else ""
        return _fail(f"no disk space left{place}: free some, or choose another --output-dir")
    except RuntimeError as error:
        from ..data.workers import LOSS, is_loss_of_a_worker

        if not is_loss_of_a_worker(error):
            raise
        return _fail(LOSS.format(str(error).strip(" .")))


def command(run: Callable[[list[str]], int | None]) -> Callable[[Sequence[str] | None], int]:
    """Make a command of its body; see `run_command` for its arguments and exit codes."""
    return functools.wraps(run)(functools.partial(run_command, run))


@contextmanager
def progress_bar(unit: str, leave: bool = True) -> Iterator[Callable[[int, int], None]]:
    """A function of what is done and of all; the bar comes with the first report, so that wrong input is answered
    without one, and what an earlier call had finished does not count as speed."""
    bar: Any = None

    def report(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            from tqdm.auto import tqdm

            bar = tqdm(total=total, initial=done, unit=unit, leave=leave, dynamic_ncols=True)
        bar.update(done - bar.n)

    try:
        yield report
    finally:
        if bar is not None:
            bar.close()


def say(text: object, file: TextIO | None = None) -> None:
    """Print a text of a command: names of data, of checkpoints and of the Hub in it are no more than text."""
    print(plain_text(text, keep="\n"), file=file, flush=True)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """A table of texts, its columns one below the other."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def say_left_out(faults: Sequence[str], kind: str) -> None:
    """Name what was left out, the first ten one by one."""
    for fault in faults[:10]:
        say(f"broken, left out: {plain_text(fault)}")
    if len(faults) > 10:
        say(f"broken, left out: {len(faults) - 10} more {kind}")


def _fail(message: str) -> int:
    say(f"mcl-hf: error: {' '.join(message.split())}", sys.stderr)
    return 2


def check_can_be_written(path: Path) -> None:
    """Refuse a file that cannot be written, or whose folder cannot be made, before anything is measured for it; nothing
    of it stays."""
    made = missing_folders(path.parent)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):  # pictures come beside it; what a link names stays as it is
            pass
        if path.exists():
            path.open("ab").close()
    except OSError as error:
        raise InputError(f"--out {path} cannot be written: {error.strerror or error}") from error
    finally:
        remove_empty(made)


def unused(path: Path) -> Path:
    """The path, or where it is taken, the first of `name-2.png`, `name-3.png`, ... that is free."""
    others = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in itertools.count(2))
    return next(found for found in itertools.chain([path], others) if not found.exists())


def check_picture(path: Path) -> None:
    """Refuse a picture that `save_picture` could not write, also for its ending, before anything is drawn for it."""
    from PIL import Image

    if Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
        raise InputError(f"--out {path}: give the file an ending such as .png")
    check_can_be_written(path)


def save_picture(picture: "Image.Image", path: Path) -> None:
    """Write a picture, making its folder, and print where it is; raises as `check_picture` does."""
    check_picture(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    except OSError as error:
        if error.errno in NO_SPACE:
            raise
        raise InputError(f"--out {path} cannot be written: {error.strerror or error}") from error
    say(f"picture: {path}")
