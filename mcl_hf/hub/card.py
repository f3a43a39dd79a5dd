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
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..detectors.transformers_detectors import TRANSFORMERS_DETECTORS
from ..engine.finish import duration
from ..errors import InputError
from ..finetuning.arguments import FinetuneArguments
from ..finetuning.finish import TITLES
from ..version import __version__
from ..viz.curves import draw_curves
from . import markdown, results, training
from . import run_command as commands
from .card_data import Recorded, one_line_if_damaged, read_recorded, without_private_parts
from .how_to_load import how_to_load
from .metadata import check_card, metadata
from .results import read_results

__all__ = ["PICTURES", "check_card", "fill_template", "render_card", "write_card"]
TEMPLATE = "card_template.md"
_CURVES = "pictures/training.png"
_PANELS = ("loss", "loss_classifier", "eval/box/AP", "level_losses", "positive_similarity", "accuracy", "probe/knn",
           "feature_std", "effective_rank")  # fmt: skip
_OF_DATA = {
    "pictures/montages.png": "What the model saw in its last step: full views, and the montages made of them",
    "pictures/similarity.png": "Where the model finds a region of a training image again",
    "evaluation/detections.png": "Validation images with their annotations and the detector's predictions",
}
PICTURES = frozenset(f"pictures/{Path(name).name}" for name in (_CURVES, *_OF_DATA))
"""All that a card may bring along, by path beside it."""


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
        results = read_results(model, repository, evaluations)
        header = metadata(model, results, title or model.name, license).to_yaml()
        check_card(f"---\n{header}\n---\n")
        values = {
            "metadata": header,
            "title": title or model.name,
            "model": model,
            "state": model.state,
            "results": results,
            "license": license,
            "data_name": data_name,
            "data_license": data_license,
            **how_to_load(model, repository, with_timm, with_code, pretraining),
        }
        text = fill_template(values, curves=_why_no_curves(model, pictures is not None))
    # Last, when all else is well: these are files.
    shown = [] if pictures is None else _draw(model, pictures, pictures_of_data)
    if not shown:
        return text
    return fill_template(values, curves="\n\n".join(f"![{what}]({path})" for what, path in shown))


def write_card(target: Path, text: str) -> None:
    """Write a card whole or not at all, making its folder."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(target)
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error.strerror or error}") from error


def fill_template(values: dict[str, Any], template: str = TEMPLATE, curves: str = "") -> str:
    """The template with every one of its places filled."""
    return _environment().get_template(template).render(**values, curves=curves)


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
    for name in ("plain", "code", "number", "percent", "bullets", "facts"):
        environment.filters[name] = getattr(markdown, name)
    environment.filters |= {
        "enumerated": markdown.join,
        "quoted": lambda text: json.dumps(text, ensure_ascii=False),
        "shell": shlex.quote,
        "block": lambda text, language: markdown.fenced(text.strip("\n"), language) + "\n",
        "as_text": commands.as_text,
    }
    environment.globals |= {
        "table": markdown.table,
        "is_number": markdown.is_number,
        "commands": commands,
        "figures": results,
        "training": training,
        "TITLES": TITLES,
        "TRANSFORMERS_DETECTORS": TRANSFORMERS_DETECTORS,
        "ABSENT": markdown.ABSENT,
        "count": markdown.count,
        "duration": duration,
        "milestones": lambda shares, steps: FinetuneArguments(lr_milestones=shares).milestones(steps),
        "without_private_parts": without_private_parts,
        "version": __version__,
    }
    environment.globals["words"] = environment.get_template("card_rows.md").module
    return environment


def _draw(model: Recorded, beside: Path, of_data: bool) -> list[tuple[str, str]]:
    """Put the pictures into `pictures/` beside the card: the run's curves, and when asked those that show its data.

    Returns:
        (what it shows, path from the card's folder) of each.
    """
    shown: list[tuple[str, str]] = []
    wanted = {name: what for name, what in _OF_DATA.items() if of_data and (model.run_folder / name).is_file()}
    if of_data and not wanted:
        raise InputError(f"{model.run_folder} has no pictures of its data: runs by the command draw them")
    try:
        if model.log and find_spec("matplotlib") is not None:
            (beside / "pictures").mkdir(parents=True, exist_ok=True)
            draw_curves({model.name: model.log}, f"Training of {model.name}", _PANELS).save(beside / _CURVES)
            shown.append(("Curves of the run", _CURVES))
        for name, what in wanted.items():
            source, target = model.run_folder / name, beside / "pictures" / Path(name).name
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.resolve() != source.resolve():
                shutil.copyfile(source, target)
            shown.append((what, f"pictures/{target.name}"))
    except OSError as error:
        raise InputError(f"pictures cannot be written to {beside}: {error.strerror or error}") from error
    return shown


def _why_no_curves(model: Recorded, asked: bool) -> str:
    """Why a card has no curves; empty where there is no run to have any."""
    if not model.log:
        return "No log of the run was found, so there are no curves." if model.state is not None else ""
    if not asked:
        return "No curves were drawn with this card."
    return "No curves: they are drawn with matplotlib, which was not installed where this card was written."
