"""Where a run starts: at step 0 in a free folder, or at a whole checkpoint whose recipe still fits, here or on the Hub.

Where it sits: `lifecycle.py` asks before anything expensive is done. What would be wrong is refused, what is a choice
is named. A checkpoint of the Hub is put where the run's own lie, with the log up to its step; from there on it is a run
like any other: interrupted again, it goes on with `--resume auto`, or with the same command.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..models.weight_files import read_json
from ..remote.checkpoints import HubSource, fetch, hub_checkpoints, hub_source, with_last
from .finish import RUN_ENTRIES
from .provenance import join_machines
from .saving import link_last, replace_folder
from .state import TrainingState, checkpoint_folder, checkpoints, damage, newest_whole_checkpoint, step_of
from .tracking import log_up_to

LOG = "log.jsonl"
"""Of a run, in its folder and in a repository to which it is pushed."""
_FETCHED = "fetched.json"  # what was asked for of the Hub, and the repository's commit

# What an attempt leaves behind that was stopped before its first checkpoint: nothing worth keeping.
_BEFORE_FIRST_CHECKPOINT = (LOG, "checkpoints")
# A config.json or a README.md alone is somebody else's.
_SIGNS_OF_A_RUN = {"model.safetensors", "pretraining", "checkpoints", LOG}
# These may change freely: they decide where a run writes, what it tells, and how fast it reads. A change of any other
# option makes another run of it, but not a wrong one, and is named; so are options that come to be, until listed here.
WITHOUT_INFLUENCE = {
    "output_dir", "resume", "num_workers", "max_broken", "allow_outside_paths", "save_every_steps", "keep_last",
    "keep_every", "log_every_steps", "report_to", "log_images", "on_collapse", "probe_data",
    "probe_every_steps", "probe_images",
}  # fmt: skip
# Compared by what comes of them: the model's configuration, the data's fingerprint, the steps and their images.
COMPARED_BY_RESULT = {"data", "epochs", "max_steps", "global_batch_size", "batch_size"}


@dataclass(frozen=True)
class RecipeRules:
    """What a change of a task's options means for a run that is resumed: another value of one `refused` makes a
    checkpoint useless, those `without_influence` may change freely, others are compared by what comes of them. Any
    option not named here may be changed, and is warned about."""

    refused: tuple[str, ...]
    without_influence: frozenset[str]
    compared_elsewhere: frozenset[str]


# What a run counts and finds; the other fields of `TrainingState` describe it.
_CONTINUED = (
    "step", "images_seen", "seconds", "broken_images", "broken_since_log", "best", "health", "tracker_ids", "scaler",
)  # fmt: skip


def find_start(output_dir: Path, resume: str) -> tuple[Path | None, list[str]]:
    """The checkpoint to start from (None: step 0), and lines to print about damaged ones. `resume` is "never", "auto",
    the path of a checkpoint folder, or a repository `user/name[@revision]` of the Hub. An InputError where the folder
    holds another run, or the checkpoint asked for is absent or damaged. Main process only."""
    in_use = [name for name in RUN_ENTRIES if _has_content(output_dir / name)]
    if not set(in_use) & _SIGNS_OF_A_RUN:
        in_use = []
    if output_dir.exists() and not output_dir.is_dir():
        raise InputError(f"output_dir {output_dir} is a file: choose a folder")
    if not in_use and output_dir.is_dir():
        strangers = sorted(path.name for path in output_dir.iterdir() if _has_content(path) and not _is_ours(path.name))
        if strangers:
            raise InputError(
                f"{output_dir} holds something else than a run ({', '.join(strangers[:3])}): "
                "choose a new or an empty --output-dir"
            )
    if resume == "never":
        if in_use:
            raise InputError(
                f"{output_dir} already holds a run ({', '.join(in_use)}): continue it with --resume auto, "
                "or choose another --output-dir"
            )
        return None, []
    if resume != "auto":
        path = with_last(Path(resume))
        remote = None if path.exists() else hub_source(resume)
        if remote is not None:
            return resume_from_hub(remote, resume, output_dir, bool(set(in_use) - set(_BEFORE_FIRST_CHECKPOINT)))
        path = path.resolve()
        reason = damage(path) if path.is_dir() else "there is no such folder"
        if reason is not None:
            raise InputError(f"cannot resume from {resume}: {reason}")
        if in_use and path.parent.parent != output_dir.resolve():
            raise InputError(f"{output_dir} already holds another run than {resume}: choose another --output-dir")
        return path, []
    newest, skipped = newest_whole_checkpoint(output_dir)
    if newest is not None:
        return newest, [f"{line}: using {newest.name} instead" for line in skipped]
    if checkpoints(output_dir):
        raise InputError(f"{output_dir} has no whole checkpoint to resume from: {'; '.join(skipped)}")
    foreign = [name for name in in_use if name not in _BEFORE_FIRST_CHECKPOINT]
    if foreign:
        raise InputError(
            f"{output_dir} has no checkpoint to resume from but holds {', '.join(foreign)}: choose another --output-dir"
        )
    return None, []


def _is_ours(name: str) -> bool:
    """What a run that ended before its first log line may leave besides `RUN_ENTRIES`."""
    folders = ("tensorboard", "wandb", "pictures", "best", "evaluation")
    return name in folders or name.startswith((".", "non-finite-samples"))


def _has_content(path: Path) -> bool:
    """Whether there is anything: a run that failed in its first step leaves an empty log, which is in nobody's way."""
    return path.is_dir() or (path.is_file() and path.stat().st_size > 0)


def resume_from_hub(source: HubSource, resume: str, output_dir: Path, in_use: bool) -> tuple[Path, list[str]]:
    """The checkpoint to go on from, in `output_dir`, and lines to print: the newest whole one of the repository, or the
    one that `source.folder` names. `in_use` says whether the folder holds more than an attempt leaves that was stopped
    before its first checkpoint. An InputError where that is another run, or the Hub gives no whole checkpoint."""
    before = fetched(output_dir)
    if before is not None and before[0] == resume:
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
        record = {"resume": resume, "commit": found.parents[1].name, "checkpoint": found.name}
        (final.parent / _FETCHED).write_text(json.dumps(record, indent=1), encoding="utf-8")
        replace_folder(partial, final)
        link_last(final)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise InputError(f"{final} cannot be written: {error.strerror or error}") from error
    return final


def fetched(output_dir: Path) -> tuple[str, int] | None:
    """What the run in this folder went on from on the Hub, as the user named it, and the step of that checkpoint; None
    where it did not, or was stopped while it wrote this down."""
    try:
        record = read_json(output_dir / "checkpoints" / _FETCHED)
        return str(record["resume"]), step_of(Path(record["checkpoint"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def check_model(checkpoint: Path, saved: Any, wanted: Any, names: Sequence[str]) -> None:
    """Refuse to continue with another network, by an InputError with those of the fields `names` that differ between
    the configuration in the checkpoint and the one that this run's options describe."""
    changed = [
        f"{name} {getattr(saved, name)!r} (now {getattr(wanted, name)!r})"
        for name in names
        if getattr(saved, name) != getattr(wanted, name)
    ]
    if changed:
        raise InputError(
            f"{checkpoint} was trained with {', '.join(changed)}: resume with the same model options, "
            "or start a new run from its weights with --init"
        )


def check_detector(checkpoint: Path, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse to continue with another detector than a configuration describes, by an InputError that names what of
    `wanted`, said by this run's options and data, differs as JSON."""
    changed = [name for name, value in wanted.items() if _as_json(saved.get(name)) != _as_json(value)]
    if changed:
        raise InputError(
            f"{checkpoint} was trained with another {', '.join(changed)}: resume with the same options and data, or "
            "start a new run from its weights with --init"
        )


def _as_json(value: Any) -> Any:
    """Lists for tuples, texts for keys."""
    return json.loads(json.dumps(value))


def check_recipe(checkpoint: Path, saved: TrainingState, now: TrainingState, rules: RecipeRules) -> list[str]:
    """One line for every choice that differs from the checkpoint's run: continuing is possible, but not the same run.
    An InputError where it is a checkpoint of another task, an option differs that `rules` refuse, or the run is already
    longer than asked for."""
    if saved.task != now.task:
        raise InputError(
            f"{checkpoint} is a checkpoint of {saved.task}, and this is {now.task}: start a new run from its weights"
        )
    before, after = saved.arguments, now.arguments
    for name in rules.refused:
        if before.get(name) != after[name]:
            raise InputError(
                f"{checkpoint} was trained with {name} {before.get(name)}, now it is {after[name]}: use the same"
            )
    if saved.step > now.max_steps:
        words = _data_words(saved), _data_words(now)
        why = "" if words[0] == words[1] else f"; the data were {words[0]}, and are {words[1]}"
        raise InputError(f"{checkpoint} is at step {saved.step}, beyond the {now.max_steps} steps asked for{why}")
    changed = _changes(saved, now, rules)
    changed += [
        (f"release of {name}", saved.versions.get(name), now.versions[name])
        for name in now.versions
        if name in saved.versions and saved.versions[name] != now.versions[name]
    ]
    return [
        f"warning: resuming with another {name}: {old} before, {new} now; the run goes on, but is not the interrupted "
        "one"
        for name, old, new in changed
    ]


def _changes(saved: TrainingState, now: TrainingState, rules: RecipeRules) -> list[tuple[str, Any, Any]]:
    """Name, value before and value now of what another attempt of a run was asked to do otherwise."""
    before, after = saved.arguments, now.arguments
    unnamed = rules.without_influence | rules.compared_elsewhere
    found = [(name, before[name], after[name]) for name in after if name in before and name not in unnamed]
    for name in ("world_size", "global_batch_size", "max_steps"):
        found.append((name, getattr(saved, name), getattr(now, name)))
    found.append(("data set", _data_words(saved), _data_words(now)))
    return [(name, old, new) for name, old, new in found if old != new]


def continue_from(state: TrainingState, saved: TrainingState, rules: RecipeRules) -> None:
    """Take over what the interrupted run had counted and found; what describes the run stays that of this attempt, and
    what it was before is added to the history."""
    for name in _CONTINUED:
        setattr(state, name, getattr(saved, name))
    state.start = saved.start or state.start
    state.machines = join_machines(saved.machines, state.machines, saved.step)
    changed = {name: {"before": old, "now": new} for name, old, new in _changes(saved, state, rules)}
    state.changes = [*saved.changes, *([{"from_step": saved.step, "options": changed}] if changed else [])]


def _data_words(state: TrainingState) -> str:
    """The data set as the warning shows it; equal for equal data, wherever it lies."""
    return f"{state.data.get('num_images')} images with fingerprint {state.data.get('fingerprint')}"
