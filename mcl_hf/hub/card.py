"""Model cards: what was recorded of a model, as the text of a README.md that the Hub reads.

Where it sits: card_data.py (configuration, run, log), results.py (evaluations) -> **card**, whose words are those of
`card_template.md` -> README.md, `bundle.py`. Nothing in a card is typed: what was not recorded is said to be absent.
"""

import functools
import json
import shlex
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..detectors.transformers_detectors import TRANSFORMERS_DETECTORS
from ..engine.finish import duration
from ..engine.resume import fetched
from ..errors import InputError
from ..finetuning.arguments import FinetuneArguments
from ..finetuning.finish import TITLES
from ..models.timm_backbone import layer_arguments
from ..transfer.remote_code import CARRIED
from ..transfer.to_detectors import RESNET_DEPTHS
from ..transfer.to_onnx import can_be_traced
from ..transfer.to_timm import feature_options
from ..version import __version__
from ..viz.curves import draw_curves, summarise
from .card_data import Recorded, numbers, one_line_if_damaged, read_recorded, whole_class, without_private_parts
from .markdown import ABSENT, block, bullets, code, count, enumerated, facts, is_number, number, percent, plain, table
from .metadata import check_card, metadata, pipeline_tag
from .results import Results
from .run_command import as_text, changed_options, run_command, whose_recipe

__all__ = ["PICTURES", "check_card", "fill_template", "render_card", "write_card"]
TEMPLATE = "card_template.md"
_CURVES = "pictures/training.png"
PICTURES = {
    _CURVES: "Curves of the run",
    "pictures/montages.png": "What the model saw in its last step: full views, and the montages made of them",
    "pictures/similarity.png": "Where the model finds a region of a training image again",
    "pictures/detections.png": "Validation images with their annotations and the detector's predictions",
}
"""All that a card may bring along: path beside it -> what it shows; all but the first hold images of the data."""

_IN_THE_RUN = {"pictures/detections.png": "evaluation/detections.png"}  # the others are under the same path
_PANELS = ("loss", "loss_classifier", "eval/box/AP", "level_losses", "positive_similarity", "accuracy", "probe/knn",
           "feature_std", "effective_rank")  # fmt: skip


def render_card(
    folder: Path,
    *,
    repository: str | None = None,
    title: str | None = None,
    license: str | None = None,
    evaluations: Sequence[Path] = (),
    pictures: Path | None = None,
    with_timm: bool = False,
    with_code: bool = False,
    pretraining: str | None = None,
    data_name: str | None = None,
    data_license: str | None = None,
    pictures_of_data: bool = False,
) -> str:
    """The card of a model, from what was recorded of it.

    Args:
        folder: a run's folder, its `pretraining/`, a checkpoint, a fine-tuned detector or an imported checkpoint.
        repository: `user/name` that it is published as; None: it is opened from its folder.
        title: first heading; the folder's name where left out.
        license: of the weights, as the Hub names it; None: none is claimed.
        evaluations: result files besides those in the folder: metrics.json, probe.json, comparison.json.
        pictures: folder of the card; curves are drawn into `pictures/` there, as PNG. None: no pictures.
        with_timm: `repository`-timm is published, too.
        with_code: the repository carries the code of its model.
        pretraining: class of the whole model that the repository carries in `pretraining/`; None: it carries none.
        data_name: what to call the training data, in place of what is recorded.
        data_license: of the training data, in place of what is recorded.
        pictures_of_data: also show pictures that hold images of the data; for `pictures`.

    Raises:
        InputError: `folder` holds no model of ours, a file in it cannot be read, the Hub would not take the card, or a
            picture cannot be written.
    """
    with one_line_if_damaged(folder):
        model = read_recorded(folder)
        found = Results(model, repository, evaluations)
        header = metadata(model, found, title or model.name, license).to_yaml()
        check_card(f"---\n{header}\n---\n")
        shown = None if pictures is None else _shown(model, pictures_of_data)
        text = fill_template(
            TEMPLATE, model, repository=repository, with_timm=with_timm, with_code=with_code, pretraining=pretraining,
            metadata=header, title=title or model.name, results=found, license=license, data_name=data_name,
            data_license=data_license, pictures=shown,
        )  # fmt: skip
    if pictures is not None and shown:  # last, when all else is well: these are files
        _draw(model, pictures, shown)
    return text


def write_card(target: Path, text: str) -> None:
    """Write a card whole or not at all, making its folder."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(target)
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error.strerror or error}") from error


def fill_template(
    template: str, model: Recorded, *, repository: str | None = None, with_timm: bool = False,
    pretraining: str | None = None, with_code: bool = False, **values: Any,
) -> str:  # fmt: skip
    """The template with every one of its places filled: those of "How to load it" from the options, which are those of
    `render_card`, the others by `values`."""
    config, place = model.config, repository or model.name
    theirs = TRANSFORMERS_DETECTORS.get(model.detector or "")
    ours = "MCLForInstanceSegmentation" if model.detector == "mask_rcnn" else "MCLForObjectDetection"
    named_alike = config["backbone"] in RESNET_DEPTHS and not layer_arguments(config.get("backbone_kwargs"))
    targets = []
    if theirs is None:  # else it is transformers' own format already
        targets += ["timm"] if model.detector is not None and not with_timm else []
        targets += ["torchvision", "detectron2", "mmdet"] if named_alike else []
        targets += ["onnx"] if can_be_traced(config["backbone"]) else []
    how_to_load = {
        "repository": repository,
        "place": place,
        "short": place.rsplit("/", 1)[-1],
        "detector_class": ours if theirs is None else theirs.model_class.__name__,
        "of_transformers": theirs is not None,
        "pipeline_tag": pipeline_tag(model.detector),
        "with_timm": with_timm,
        "with_code": with_code,
        "pretraining": pretraining,
        "pretraining_is_carried": pretraining in CARRIED,
        "whole": whole_class(config) if repository is None else pretraining,  # what is published at the root is slim
        "feature_options": feature_options(config["backbone"], config["num_channels"], config.get("backbone_kwargs")),
        "targets": targets,
        "named_alike": named_alike,
    }
    return _environment().get_template(template).render(model=model, state=model.state, **how_to_load, **values)


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        extensions=["jinja2.ext.do"],
    )
    for words in (as_text, block, bullets, code, enumerated, facts, number, percent, plain):
        environment.filters[words.__name__] = words
    environment.filters["quoted"] = functools.partial(json.dumps, ensure_ascii=False)
    environment.filters["shell"] = shlex.quote
    for function in (changed_options, count, duration, fetched, is_number, median, numbers, run_command,
                     summarise, table, whose_recipe, without_private_parts):  # fmt: skip
        environment.globals[function.__name__] = function
    environment.globals |= {
        "ABSENT": ABSENT,
        "TITLES": TITLES,
        "TRANSFORMERS_DETECTORS": TRANSFORMERS_DETECTORS,
        "milestones": lambda shares, steps: FinetuneArguments(lr_milestones=shares).milestones(steps),
        "version": __version__,
    }
    environment.globals["words"] = environment.get_template("card_rows.md").module
    return environment


def _shown(model: Recorded, of_data: bool) -> dict[str, str]:
    """Path beside the card -> what it shows: the run's curves, and when asked the pictures of its data."""
    shown = [_CURVES] if model.log and find_spec("matplotlib") is not None else []
    if of_data:
        data = [path for path in PICTURES if path != _CURVES and _in_the_run(model, path).is_file()]
        if not data:
            raise InputError(f"{model.run_folder} has no pictures of its data: runs leave them unless callbacks are ()")
        shown += data
    return {path: PICTURES[path] for path in shown}


def _in_the_run(model: Recorded, path: str) -> Path:
    return model.run_folder / _IN_THE_RUN.get(path, path)


def _draw(model: Recorded, beside: Path, shown: dict[str, str]) -> None:
    """Put these pictures beside the card."""
    try:
        for path in shown:
            source, target = _in_the_run(model, path), beside / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if path == _CURVES:
                draw_curves({model.name: model.log}, f"Training of {model.name}", _PANELS).save(target)
            elif target.resolve() != source.resolve():
                shutil.copyfile(source, target)
    except OSError as error:
        raise InputError(f"pictures cannot be written to {beside}: {error.strerror or error}") from error
