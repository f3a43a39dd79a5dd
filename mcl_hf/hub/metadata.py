"""The card's header, which the Hub reads: licence, tags, data sets, start, results; and the check that it can be read.

Where it sits: card_data, results -> **metadata** -> card. Source: huggingface_hub's `ModelCardData`, and the Hub's
documentation of model cards' metadata.
"""

import re
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..detectors.transformers_detectors import TRANSFORMERS_DETECTORS
from ..engine.state import TrainingState
from ..errors import InputError
from .card_data import Recorded
from .markdown import is_number, one_line
from .results import DetectionResult, Results

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_PERMISSIVE = ("apache-2.0", "bsd-2-clause", "bsd-3-clause", "mit")
"""Licences of a start that let what is trained from it have another one."""
_DETECTION = "object-detection"


def metadata(recorded: Recorded, results: Results, title: str, license: str | None) -> ModelCardData:
    """The header; figures that are finite numbers, of this model or of detectors from it, become its `model-index`,
    under the title.

    Raises:
        InputError: a licence that the Hub has no form for, or another one than that of the start, which does not allow
            that.
    """
    tags = ["mcl_hf", _DETECTION]
    if recorded.detector is not None:
        tags += [recorded.detector.replace("_", "-")]
    elif recorded.supervised:
        tags += ["supervised-pre-training"]
    elif recorded.state is not None:
        tags += ["self-supervised-learning", "contrastive-learning"]
    rows = [found for found in results.detections if found.relation != "other"] + results.compared
    entries = [
        _entry(row, name, value)
        for row in rows
        for name, value in row.figures.items()
        if name in ("box AP", "box AP50", "mask AP", "mask AP50", "VOC AP50") and is_number(value)
    ]
    named: dict[str, Any] = {"model_name": one_line(title), "eval_results": entries} if entries else {}
    state = recorded.state or TrainingState()
    # a start on the Hub; a folder of ours counts for what it started from itself
    start, sources = state.start, state.data.get("sources") or []
    base = start.get("repository") or ((start.get("run") or {}).get("start") or {}).get("repository")
    return ModelCardData(
        **licence_fields(state, license),
        library_name="transformers",
        pipeline_tag=pipeline_tag(recorded.detector),
        tags=tags,
        datasets=sorted({source["name"] for source in sources if source["kind"] == "hub"}) or None,
        base_model=base,
        **named,
    )


def pipeline_tag(detector: str | None) -> str:
    """Of transformers' pipeline that opens a detector of this kind; None: of a backbone."""
    if detector is None:
        return "image-feature-extraction"
    kind = TRANSFORMERS_DETECTORS.get(detector)
    return "image-segmentation" if kind is not None and kind.masks else _DETECTION


def licence_fields(state: TrainingState | None, license: str | None) -> dict[str, str | None]:
    """The header's fields for a licence of the weights that a run gave; raises as `metadata` does."""
    if license is not None and _LICENSE.fullmatch(license) is None:
        raise InputError(f"the licence {license!r} is no identifier of the Hub: write one such as apache-2.0, or other")
    of_start = None if state is None else state.start.get("licence")
    if license in (None, "other") or of_start is None or of_start in _PERMISSIVE:
        return {"license": license}
    if license != of_start:
        raise InputError(
            f"these weights were trained from others under the licence {of_start!r}, so {license!r} is not yours to "
            f"give: claim {of_start}, other, or none"
        )
    return {"license": "other", "license_name": license}  # the Hub's form for a licence that it has no identifier of


def check_card(text: str) -> None:
    """Refuse a card whose header cannot be read; what else the Hub asks of it, it is asked before anything is sent."""
    try:
        header = ModelCard(text).data.to_dict()
    except Exception as error:  # YAML's and the Hub client's own errors share no type
        raise InputError(f"the card's header does not parse: {one_line(error)}") from error
    if not header:
        raise InputError("the card has no header: it must begin with '---', YAML and '---'")


def _entry(row: DetectionResult, name: str, value: Any) -> EvalResult:
    told = f"{name}, percent"
    if row.relation == "from_it":
        share = f" on {100 * row.share:g} % of the labels" if row.share is not None else ""
        share = f" with {row.labelled}" if row.labelled is not None else share
        told += f", of a detector fine-tuned from it{share}"
    if len(row.seeds) > 1:
        told += f", mean of {len(row.seeds)} seeds"
    return EvalResult(
        task_type=_DETECTION,
        dataset_type=row.repository or "local",
        dataset_name=one_line(row.data),
        dataset_split=row.split,
        metric_type=name.lower().replace(" ", "_"),
        metric_value=round(100 * value, 2),
        metric_name=told,
    )
