"""A run that goes on from the Hub: its newest whole checkpoint, put where the run's own checkpoints lie.

Where it sits: `--resume user/name` -> resume.py -> **hub_resume** -> OUTPUT_DIR/checkpoints/step-00000030, from where
on it is a run like any other: interrupted again, it goes on with `--resume auto`, or with the same command.

    OUTPUT_DIR/
        log.jsonl               up to that step, where the repository holds it
        checkpoints/
            fetched.json        what was asked for, and the repository's commit
            step-00000030/      see state.py
"""

import json
import shutil
from pathlib import Path

from ..errors import InputError
from ..models.weight_files import read_json
from ..remote.checkpoints import HubSource, fetch, hub_checkpoints
from .saving import fsync, link_last, replace_folder
from .state import checkpoint_folder, checkpoints, damage, newest_whole_checkpoint, step_of
from .tracking import log_up_to

LOG = "log.jsonl"
"""Of a run, in its folder and in a repository to which it is pushed."""

_RECORD = "fetched.json"


def resume_from_hub(source: HubSource, resume: str, output_dir: Path, in_use: bool) -> tuple[Path, list[str]]:
    """The checkpoint to go on from, in `output_dir`, and lines to print. Main process only.

    Args:
        source: repository and revision; the newest whole checkpoint of it, or the one that `source.folder` names.
        resume: as the user gave it.
        output_dir: the run's folder, which need not exist.
        in_use: whether it holds more than an attempt leaves that was stopped before its first checkpoint.

    Raises:
        InputError: it holds another run, or the Hub gives no whole checkpoint.
    """
    if _resumed_before(output_dir) == resume:
        newest, skipped = newest_whole_checkpoint(output_dir)
        if newest is not None:
            here = f"{output_dir} went on from {resume} before: using its own {newest.name}"
            return newest, [*(f"{line}: using {newest.name} instead" for line in skipped), here]
    elif in_use or checkpoints(output_dir):
        raise InputError(
            f"{output_dir} already holds a run: continue it with --resume auto, or choose another --output-dir for "
            f"{resume}"
        )
    lines: list[str] = []
    try:
        for candidate in [source] if source.folder else hub_checkpoints(source):
            found = fetch(candidate, [f"{candidate.folder}/*"]) / candidate.folder
            reason = damage(found)
            if reason is None:
                commit = HubSource(source.repository, revision=found.parents[1].name)
                log = fetch(commit, [LOG]) / LOG
                return _take(found, log, resume, output_dir), [*lines, f"fetched {found.name} of {source.repository}"]
            lines.append(f"{candidate.folder} of {source.repository} is damaged ({reason}): using one before it")
    except ValueError as error:
        raise InputError(f"cannot resume from {resume}: {error}") from error
    why = lines[-1].partition(": using")[0] if lines else "it has no checkpoints/step-... of a run"
    raise InputError(f"cannot resume from {resume}: {why}; weights alone are started from with --init")


def _take(found: Path, log: Path, resume: str, output_dir: Path) -> Path:
    """Copy a checkpoint out of the cache, whole or not at all, and before it the log, where there is one."""
    final = checkpoint_folder(output_dir, step_of(found))
    partial = final.with_name(f".{final.name}.partial")
    try:
        if log.is_file():
            output_dir.mkdir(parents=True, exist_ok=True)
            text = log_up_to(log.read_text(encoding="utf-8", errors="replace"), step_of(found))
            (output_dir / LOG).write_text(text, encoding="utf-8")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(found, partial, copy_function=shutil.copyfile)  # the cache holds links
        for path in partial.iterdir():
            fsync(path)
        record = {"resume": resume, "commit": found.parents[1].name, "checkpoint": found.name}
        (final.parent / _RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
        replace_folder(partial, final)
        link_last(final)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise InputError(f"{final} cannot be written: {error.strerror or error}") from error
    return final


def _resumed_before(output_dir: Path) -> str | None:
    """What an earlier attempt in this folder was asked to go on from."""
    found = fetched(output_dir)
    return None if found is None else found[0]


def fetched(output_dir: Path) -> tuple[str, int] | None:
    """What the run in this folder went on from on the Hub, as the user named it, and the step of that checkpoint.

    None where it did not, or was stopped while it wrote this down.
    """
    try:
        record = read_json(output_dir / "checkpoints" / _RECORD)
        return str(record["resume"]), step_of(Path(record["checkpoint"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


__all__ = ["LOG", "fetched", "resume_from_hub"]
