"""Folders that are made for results: whole or absent, and gone again where nothing came of them.

Where it sits: every command that writes, and `launched` for runs, around their work.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import InputError


def missing_folders(folder: Path) -> list[Path]:
    """Those of a folder and the ones above it that are not there, the innermost first."""
    # Path's own `exists` raises where a folder above may not be read, which is for whoever writes there to tell.
    return [path for path in (folder, *folder.parents) if not os.path.exists(path)]  # noqa: PTH110


def remove_empty(folders: Sequence[Path]) -> None:
    """Remove those that are there and hold nothing, in this order."""
    for path in folders:
        with suppress(OSError):  # it is not there, or holds something
            path.rmdir()


@contextmanager
def kept_if_used(folder: Path) -> Iterator[None]:
    """Let a folder that comes to be inside, and those above it, go again where an error leaves it empty."""
    made = missing_folders(folder)
    try:
        yield
    except BaseException:
        remove_empty(made)
        raise


def check_new(folder: Path) -> None:
    """Refuse, by an InputError, a folder that is not to be written: it holds something, is a file, or has no name of
    its own (`.`, `..`, `/`)."""
    if folder.name in ("", ".."):
        raise InputError(f"{folder} is no name for a folder that is to be made: name a new one")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is there and not empty: name a new folder")


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out`, which is absent or empty, to write into; it takes the place of `out` at the end, and an
    error leaves nothing. An InputError of `check_new`, or where it cannot be written."""
    check_new(out)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of an attempt that was killed
    try:
        with kept_if_used(out.parent):
            try:
                partial.mkdir(parents=True)
                yield partial
                partial.replace(out)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}") from error


def output_folder(output_dir: str | None, sources: Sequence[str]) -> Path:
    """The run's folder, from `output_dir` and the data as the user gave them. An InputError where none was given, or it
    lies among the images, where its pictures would be trained on."""
    if not output_dir:
        raise InputError("output_dir is not set: name the folder for the run with --output-dir")
    folder = Path(output_dir).expanduser()
    for data in sources:
        # FOLDER, FOLDER=WEIGHT, or an address, which Path's own `exists` may find too long
        images = Path(data if os.path.exists(data) else data.rpartition("=")[0] or data)  # noqa: PTH110
        if os.path.isdir(images) and images.resolve() in (folder.resolve(), *folder.resolve().parents):  # noqa: PTH112
            raise InputError(
                f"output_dir {folder} lies within the data, {data}: its pictures would become training images"
            )
    return folder
