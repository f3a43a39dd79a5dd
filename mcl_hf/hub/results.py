"""Evaluations as they lie on the disk: figures of detectors, comparisons of starts, probes. Read, never computed anew.

Where it sits: metrics.json (`finetune`, `evaluate`), comparison.json (`compare`), probe.json -> **results** -> the card
and its `model-index`. What kind a file is, its content says.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data.sources.licences import describe_sources
from ..engine.state import TrainingState
from ..errors import InputError
from ..models.weight_files import read_json
from ..probe.region_features import FEATURES
from ..probe.report import TITLES
from .card_data import Recorded, one_line_if_damaged, read_recorded, without_private_parts
from .markdown import plain
from .run_command import evaluate_command, run_command

_FOUND_IN = ("evaluation/metrics.json", "metrics.json", "probe.json", "comparison.json")
_PROBED = {"objects": ("knn", "linear"), "views": ("same_level", "other_level")}


@dataclass(frozen=True, kw_only=True)
class DetectionResult:
    """Figures of a detector, or their means over seeds; None or empty where something is not recorded."""

    model: str  # what was measured, by name
    relation: str  # `own` for the card's model, `from_it` for a detector that was fine-tuned from it, else `other`
    data: str  # what it was measured on
    repository: str | None = None  # of the data on the Hub
    split: str | None = None
    images: int | None = None
    objects: int | None = None
    figures: dict[str, float | None] = field(default_factory=dict)  # "box AP" -> in [0, 1]; not finite: not measured
    sd: dict[str, float] = field(default_factory=dict)  # of the same figures over the seeds
    seeds: list[int] = field(default_factory=list)  # of the runs behind it
    share: float | None = None  # of the labelled images that was trained on, in (0, 1]
    labelled: str | None = None  # that a comparison trained it on: "25 labelled images"
    run: Recorded | None = None  # the fine-tuning run, for its protocol
    command: str | None = None  # that measured it
    counted_by: str | None = None  # library that computed AP


class Results:
    """All that was measured of a model, beside it and in further files: figures, comparisons, probes. Those that name
    the `repository` that it is published as are its own.

    Raises:
        InputError: a file that cannot be read, or is no result.
    """

    def __init__(self, model: Recorded, repository: str | None, files: Sequence[Path]) -> None:
        self.model, self.repository = model, repository
        self.comparisons: list[dict[str, Any]] = []
        self.probes: list[dict[str, Any]] = []
        self.detections = _of_the_run(model)
        known = bool(self.detections)
        found = [place / name for place in model.places for name in _FOUND_IN if (place / name).is_file()]
        given = [file.resolve() for file in files]
        for file in dict.fromkeys([*found, *given]):
            try:
                content = read_json(file)
            except OSError as error:
                raise InputError(f"{file} cannot be read: {error.strerror or error}") from error
            except ValueError as error:
                raise InputError(str(error)) from error
            with one_line_if_damaged(file):
                if isinstance(content, list) and content and all("network" in one for one in content):
                    self.probes.append(self._probes(content, file))
                elif isinstance(content, dict) and "answer" in content and "starts" in content:
                    self.comparisons.append(self._comparison(content, file))
                elif isinstance(content, dict) and ("box" in content or "mask" in content):
                    self.detections += self._of_an_evaluation(content, file, known and file in found)
                elif file in given:  # else another program's, that happens to have such a name
                    raise InputError(f"{file} is no result of mcl-hf evaluate, finetune, compare or probe")

    @property
    def compared(self) -> list[DetectionResult]:
        """Rows of comparisons that are about the card's model."""
        return [row for found in self.comparisons for row in found["rows"] if row.relation == "from_it"]

    def _is_own(self, measured: Any, file: Path) -> bool:
        """Whether an address in a file, perhaps relative to another folder than this process's, is the model's."""
        if not measured:
            return False
        if self.repository is not None and str(measured).partition("@")[0] == self.repository:
            return True
        path, run = Path(measured), self.model.run_folder
        if path.exists():
            return path.resolve() in self.model.places
        names = [f"{run.name}{str(place).removeprefix(str(run))}" for place in self.model.places]
        beside = file.resolve().is_relative_to(run) and not path.is_absolute()
        return beside and any(f"/{path.as_posix()}".endswith(f"/{name}") for name in names)

    def _relation(self, start: str, run: Recorded | None, file: Path) -> str:
        """Whether a detector came of the model; what its own run recorded of its start counts first."""
        if self.model.detector is not None:
            return "other"
        began = run.state.start if run is not None and run.state is not None else {}
        known, state = began.get("run") or {}, self.model.state
        if known and state is not None:
            same = (known["steps"], known.get("images_seen")) == (self.model.step, state.images_seen)
            if same and began.get("name") in [place.name for place in self.model.places]:
                return "from_it"
        return "from_it" if self._is_own(start, file) else "other"

    def _of_an_evaluation(self, content: dict[str, Any], file: Path, known: bool) -> list[DetectionResult]:
        """metrics.json of `mcl-hf evaluate`, or of a run's own evaluation; nothing where it is of other weights of the
        run, or `known` already."""
        model = self.model
        inside, by_the_run = file.resolve().is_relative_to(model.run_folder), "run" in content
        if inside and by_the_run and (known or content.get("step") != model.step):
            return []
        measured = content.get("run") or content.get("checkpoint")
        own = (inside and model.detector is not None) or self._is_own(measured, file)
        run = model if own else _run_beside(file, measured)
        options = {} if run is None else run.arguments
        seed = content.get("seed", options.get("seed", 0) if options else None)
        if by_the_run and run is not None and run.state is not None:
            about = _validation(run.state)
        else:
            about = _of_source(describe_sources([str(content.get("given") or content.get("data", "unknown"))])[0])
            about["split"] = content.get("split")
        figures = {
            f"{kind} {name}": value
            for kind in ("box", "mask")
            for name, value in content.get(kind, {}).items()
            if not isinstance(value, dict)
        }
        figures |= {"VOC AP50": content["voc"].get("AP50")} if content.get("voc") else {}
        result = DetectionResult(
            model=model.name if own else _short(measured or content.get("predictions") or "detections of a file"),
            relation="own" if own else self._relation(str(options.get("init", "")), run, file),
            **{**about, "images": content.get("images"), "objects": content.get("objects")},
            figures=figures,
            seeds=[] if seed is None else [int(seed)],
            share=options.get("data_fraction"),
            run=run,
            command=(None if run is None else run_command(run)) if by_the_run else evaluate_command(content),
            counted_by=content.get("backend"),
        )
        return [result]

    def _comparison(self, content: dict[str, Any], file: Path) -> dict[str, Any]:
        """comparison.json: means over seeds, for each start and number of labelled images."""
        answer, starts = content["answer"], [str(start) for start in content["starts"]]
        tested = content["data"].get("test") or {}
        rows = []
        for images in content["counts"]:
            for start in starts:
                means = {
                    str(mean["figure"]).replace("/", " "): mean
                    for mean in answer["means"]
                    if (mean["start"], mean["images"]) == (start, images)
                }
                if not means:
                    continue
                row = DetectionResult(
                    model=_short(start),
                    relation=self._relation(str(content.get("inits", {}).get(start) or start), None, file),
                    data="test images of the comparison",
                    images=tested.get("images"),
                    objects=tested.get("objects"),
                    figures={name: float(mean["mean"]) / 100 for name, mean in means.items()},
                    sd={name: mean["sd"] / 100 for name, mean in means.items() if mean.get("sd") is not None},
                    seeds=[int(seed) for seed in next(iter(means.values())).get("seeds", [])],
                    labelled=f"{images} {content['unit']}",
                )
                rows.append(row)

        def named(text: Any) -> str:
            for start in sorted(starts, key=len, reverse=True):
                text = str(text).replace(start, _short(start))
            return plain(text)

        return {
            "sentence": named(answer["sentence"]),
            "warnings": [named(line) for line in content.get("warnings", [])],
            "failed": [named(job) for job in content.get("failed", {})],
            "rows": rows,
            "data": [
                (use, part["images"], part["objects"], part["fingerprint"]) for use, part in content["data"].items()
            ],
            "protocol": content.get("finetune", ""),
        }

    def _probes(self, content: list[dict[str, Any]], file: Path) -> dict[str, Any]:
        """probe.json: what was asked, and the shares of right answers, of all features of all networks, the card's own
        network first. Levels are asked with crops of their own, whose classes are distributed otherwise."""
        networks = sorted(content, key=lambda one: not self._is_own(one["network"], file))
        kinds = [kind for kind in _PROBED if networks[0].get(kind)]
        asked, rows = [], []
        for kind in kinds:
            about = networks[0][kind]
            crops = (about["crops"]["chance"], about["crops"]["asked"]) if about.get("crops") else None
            asked.append((kind, about["images"], about["chance"], crops))
        for probed in networks:
            name, own = _short(probed["network"]), self._is_own(probed["network"], file)
            measured = {kind: (probed.get(kind) or {}).get("features", {}) for kind in kinds}
            for feature in FEATURES:
                values = [measured[kind].get(feature, {}).get(figure) for kind in kinds for figure in _PROBED[kind]]
                shares = [value.get("all") if isinstance(value, dict) else value for value in values]
                rows.append((name, own, TITLES[feature], shares))
        return {"asked": asked, "rows": rows}


def _of_the_run(model: Recorded) -> list[DetectionResult]:
    """What a fine-tuning run measured of these very weights, from its log; its validation data, from its state."""
    lines = [line for line in model.log if line.get("step") == model.step and "eval/box/AP" in line]
    if model.detector is None or model.state is None or not lines:
        return []
    result = DetectionResult(
        model=model.name,
        relation="own",
        **_validation(model.state),
        figures={" ".join(n.split("/")[1:]): value for n, value in lines[-1].items() if n.startswith("eval/")},
        seeds=[int(model.arguments.get("seed", 0))],
        share=model.arguments.get("data_fraction"),
        run=model,
        command=run_command(model),
        counted_by=model.arguments.get("eval_backend"),
    )
    return [result]


def _validation(state: TrainingState) -> dict[str, Any]:
    """What a fine-tuning run measured AP on, as fields of a `DetectionResult`."""
    found = state.data.get("validation")
    if not found:
        return {"data": "validation data (not recorded which)"}
    sizes = {"images": found["num_images"], "objects": found["num_objects"]}
    return {**_of_source(found["sources"][0]), "split": found["split"], **sizes}


def _of_source(source: dict[str, Any]) -> dict[str, Any]:
    return {"data": source["name"], "repository": source["name"] if source["kind"] == "hub" else None}


def _run_beside(file: Path, measured: str | None) -> Recorded | None:
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


def _short(address: Any) -> str:
    """A start, network or file by a name that says nothing of the disk: the last part of a local path."""
    return str(without_private_parts(str(address)))
