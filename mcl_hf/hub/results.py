"""Evaluations as they lie on the disk: figures of detectors, comparisons of starts, probes. Read, never computed anew.

Where it sits: metrics.json (`finetune`, `evaluate`), comparison.json (`compare`), probe.json -> **results**
-> measured -> the card's sections and its `model-index`. What kind a file is, its content says.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mcl_hf.data.licences import describe_sources
from mcl_hf.errors import InputError
from mcl_hf.hub.command_line import evaluate_command, run_command
from mcl_hf.hub.measured import ComparisonResult, DetectionResult, ProbeResults, Results
from mcl_hf.hub.recorded import Recorded, read_recorded
from mcl_hf.hub.run_record import without_private_parts
from mcl_hf.hub.shapes import (
    ComparisonShape,
    EvaluationShape,
    ProbeShape,
)
from mcl_hf.models.weight_files import read_json
from mcl_hf.training.record_check import misfit
from mcl_hf.training.state import TrainingState

_FOUND_IN = ("evaluation/metrics.json", "metrics.json", "probe.json", "comparison.json")


def read_results(recorded: Recorded, repository: str | None, files: Sequence[Path]) -> Results:
    """Evaluations beside a model, and those named.

    Args:
        recorded: the model.
        repository: that it is published as; results that name it are its own.
        files: further ones.

    Raises:
        InputError: a file that cannot be read, or is no result.
    """
    results = Results([], [], [])
    of_run = _of_the_run(recorded)
    if of_run is not None:
        results.detections.append(of_run)
    found = [place / name for place in recorded.places for name in _FOUND_IN if (place / name).is_file()]
    for file in dict.fromkeys([*found, *(file.resolve() for file in files)]):
        _add(results, _read(file), file, recorded, repository, known=of_run is not None and file in found)
    return results


def _add(
    results: Results, content: Any, file: Path, recorded: Recorded, repository: str | None, *, known: bool
) -> None:
    """Sort one file's content in. `known`: the figures that its run measured are there already."""
    if isinstance(content, list) and content and all(isinstance(c, dict) and "network" in c for c in content):
        for network in content:
            _check(network, ProbeShape, file)
        results.probes.append(_probes(content, file, recorded, repository))
    elif not isinstance(content, dict):
        raise InputError(f"{file} is no result of mcl-hf evaluate, finetune, compare or probe")
    elif "answer" in content and "starts" in content:
        _check(content, ComparisonShape, file)
        results.comparisons.append(_comparison(content, file, recorded, repository))
    elif "box" in content or "mask" in content:
        _check(content, EvaluationShape, file)
        found = _of_an_evaluation(content, file, recorded, repository, known)
        if found is not None:
            results.detections.append(found)
    else:
        raise InputError(f"{file} is no result of mcl-hf evaluate, finetune, compare or probe")


def _check(content: Any, shape: Any, file: Path) -> None:
    """Refuse a result that none of our commands has written so."""
    reason = misfit(content, shape)
    if reason is not None:
        raise InputError(f"{file} is damaged: {reason}")


def _read(file: Path) -> Any:
    try:
        return read_json(file)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(str(error)) from error


# ----------------------------------------------------------------------------------------------------------------
# detectors


def _of_the_run(recorded: Recorded) -> DetectionResult | None:
    """What a fine-tuning run measured of these very weights, from its log; its validation data, from its state."""
    lines = [line for line in recorded.log if line.get("step") == recorded.step and "eval/box/AP" in line]
    if recorded.detector is None or recorded.state is None or not lines:
        return None
    return DetectionResult(
        model=recorded.name,
        relation="own",
        **_validation(recorded.state),
        figures=_logged(lines[-1]),
        seeds=[int(recorded.arguments.get("seed", 0))],
        share=recorded.arguments.get("data_fraction"),
        run=recorded,
        command=run_command(recorded),
        counted_by=recorded.arguments.get("eval_backend"),
    )


def _of_an_evaluation(
    content: dict[str, Any], file: Path, recorded: Recorded, repository: str | None, known: bool
) -> DetectionResult | None:
    """metrics.json of `mcl-hf evaluate`, or of a run's own evaluation; None where it is of other weights of the run."""
    inside = file.resolve().is_relative_to(recorded.run_folder)
    by_the_run = "run" in content
    if inside and by_the_run and (known or content.get("step") != recorded.step):
        return None
    measured = content.get("run") or content.get("checkpoint")
    own = (inside and recorded.detector is not None) or _is_own(measured, file, recorded, repository)
    run = recorded if own else _run_beside(file, measured)
    seeds = [] if run is None or run.state is None else [int(run.arguments.get("seed", 0))]
    if content.get("seed") is not None:
        seeds = [int(content["seed"])]
    if by_the_run and run is not None and run.state is not None:
        about: dict[str, Any] = _validation(run.state)
    else:
        source = describe_sources([str(content.get("given") or content.get("data", "unknown"))])[0]
        about = {
            "data": source["name"],
            "repository": source["name"] if source["kind"] == "hub" else None,
            "split": content.get("split"),
        }
    start = "" if run is None or run.state is None else str(run.arguments.get("init"))
    command: str | None = evaluate_command(content)
    if by_the_run:
        command = None if run is None else run_command(run)
    return DetectionResult(
        model=recorded.name if own else short(measured or content.get("predictions") or "detections of a file"),
        relation="own" if own else _relation(start, run, file, recorded, repository),
        **{**about, "images": content.get("images"), "objects": content.get("objects")},
        figures={
            f"{kind} {name}": value
            for kind in ("box", "mask")
            if kind in content
            for name, value in content[kind].items()
            if not isinstance(value, dict)
        }
        | ({"VOC AP50": content["voc"].get("AP50")} if content.get("voc") else {}),
        seeds=seeds,
        share=None if run is None else run.arguments.get("data_fraction"),
        run=run,
        command=command,
        counted_by=content.get("backend"),
    )


def _comparison(content: dict[str, Any], file: Path, recorded: Recorded, repository: str | None) -> ComparisonResult:
    """comparison.json: means over seeds, for each start and number of labelled images."""
    answer, tested = content["answer"], content["data"].get("test") or {}
    rows = []
    for images in content["counts"]:
        for start in content["starts"]:
            found = [mean for mean in answer["means"] if (mean["start"], mean["images"]) == (start, images)]
            names = [mean["figure"].replace("/", " ") for mean in found]
            if not found:
                continue
            init = str(content.get("inits", {}).get(start) or start)
            rows.append(
                DetectionResult(
                    model=short(start),
                    relation=_relation(init, None, file, recorded, repository),
                    data="test images of the comparison",
                    images=tested.get("images"),
                    objects=tested.get("objects"),
                    figures={name: mean["mean"] / 100 for name, mean in zip(names, found, strict=True)},
                    sd={
                        name: mean["sd"] / 100 for name, mean in zip(names, found, strict=True)
                        if mean.get("sd") is not None
                    },
                    seeds=found[0].get("seeds", []),
                    labelled=f"{images} {content['unit']}",
                )
            )  # fmt: skip
    return ComparisonResult(
        sentence=_with_short_names(answer["sentence"], list(content["starts"])),
        warnings=[_with_short_names(line, list(content["starts"])) for line in content.get("warnings", [])],
        failed=[_with_short_names(job, list(content["starts"])) for job in content.get("failed", {})],
        rows=rows,
        data=content["data"],
        protocol=content.get("finetune", ""),
        command="mcl-hf compare plan.yaml",
    )


def _logged(figures: dict[str, Any]) -> dict[str, float | None]:
    """ "eval/box/AP" as "box AP"."""
    return {" ".join(name.split("/")[1:]): value for name, value in figures.items() if name.startswith("eval/")}


def _validation(state: TrainingState) -> dict[str, Any]:
    """What a fine-tuning run measured AP on."""
    return _data(state.data.get("validation"), "validation data (not recorded which)")


def _data(found: dict[str, Any] | None, unknown: str) -> dict[str, Any]:
    """Fields of a `DetectionResult` that say on what data, from the record that runs and comparisons make of it."""
    if not found:
        return {"data": unknown}
    source = found["sources"][0]
    return {
        "data": source["name"],
        "repository": source["name"] if source["kind"] == "hub" else None,
        "split": found["split"],
        "images": found["num_images"],
        "objects": found["num_objects"],
    }


def _run_beside(file: Path, measured: str | None = None) -> Recorded | None:
    """The run that an evaluation is of, where its folder is still here."""
    for place in (Path(measured) if measured else None, file.parent.parent, file.parent):
        if place is not None and place.is_dir():
            try:
                found = read_recorded(place)
            except InputError:  # not a model: the evaluation lies elsewhere
                continue
            if found.detector is not None:
                return found
    return None


def _is_own(measured: str | None, file: Path, recorded: Recorded, repository: str | None) -> bool:
    """Whether what a result is of is the card's model.

    Args:
        measured: address as the result has it, perhaps relative to another folder than this process's.
        file: of the result.
        recorded: the card's model.
        repository: that it is published as.
    """
    if not measured:
        return False
    if repository is not None and measured.partition("@")[0] == repository:
        return True
    path = Path(measured)
    if path.exists():
        return path.resolve() in recorded.places
    names = [
        f"{recorded.run_folder.name}{str(place).removeprefix(str(recorded.run_folder))}" for place in recorded.places
    ]
    beside = file.resolve().is_relative_to(recorded.run_folder)
    return beside and not path.is_absolute() and any(f"/{path.as_posix()}".endswith(f"/{name}") for name in names)


def _relation(start: str, run: Recorded | None, file: Path, recorded: Recorded, repository: str | None) -> str:
    """Whether a detector came of the card's model; what its own run recorded of its start counts first."""
    if recorded.detector is not None:
        return "other"
    known = run.state.start if run is not None and run.state is not None else {}
    if known.get("kind") == "folder" and known.get("run") and recorded.state is not None:
        of_run = known["run"]
        same = (of_run["steps"], of_run.get("images_seen")) == (recorded.step, recorded.state.images_seen)
        if same and known.get("name") in [place.name for place in recorded.places]:
            return "from_it"
    return "from_it" if _is_own(start, file, recorded, repository) else "other"


# ----------------------------------------------------------------------------------------------------------------
# probes


def _probes(content: list[dict[str, Any]], file: Path, recorded: Recorded, repository: str | None) -> ProbeResults:
    networks, own = {}, []
    for probed in content:
        name = short(probed["network"])
        if _is_own(probed["network"], file, recorded, repository):
            own.append(name)
        networks[name] = {"objects": probed.get("objects"), "views": probed.get("views")}
    ordered = sorted(networks, key=lambda name: name not in own)
    return ProbeResults(networks={name: networks[name] for name in ordered}, own=own)


def short(address: Any) -> str:
    """A start, network or file by a name that says nothing of the disk: the last part of a local path.

    Example:
        >>> short("/home/me/runs/own"), short("timm:resnet50"), short("user/name")
        ('own', 'timm:resnet50', 'user/name')
    """
    return str(without_private_parts(str(address)))


def _with_short_names(text: str, starts: Sequence[str]) -> str:
    for start in sorted(starts, key=len, reverse=True):
        text = text.replace(start, short(start))
    return text
