"""Model cards: what was recorded of a model, as the text of a README.md that the Hub reads.

Where it sits: recorded.py (run, log), results.py (evaluations) -> sections (card_doors, training_rows, evaluation_text,
card_limits) and header (card_metadata) -> **card**, laid into `card_template.md` -> README.md, `publish.py`. Nothing in
a card is typed: what was not recorded is said to be absent.
"""

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from mcl_hf.detection.finetune_finish import TITLES
from mcl_hf.errors import InputError
from mcl_hf.hub.card_doors import doors
from mcl_hf.hub.card_limits import limitations, never_run
from mcl_hf.hub.card_metadata import check_card, metadata
from mcl_hf.hub.card_pictures import draw_pictures, why_no_curves
from mcl_hf.hub.evaluation_text import evaluation_text
from mcl_hf.hub.markdown import bullets, code, facts, fenced, join, plain
from mcl_hf.hub.recorded import Recorded, read_recorded
from mcl_hf.hub.results import read_results
from mcl_hf.hub.training_rows import finetuning_rows, last_numbers, log_rows, pretraining_rows, recipe_text, start_text
from mcl_hf.version import __version__

__all__ = ["check_card", "fill_template", "render_card", "write_card"]
TEMPLATE = "card_template.md"
PAPER = "[MCL](https://arxiv.org/abs/2304.02010) (multi-level contrastive learning{variant})"
_RENDERED = (
    f"This card was rendered by mcl_hf {__version__} from what was recorded; what is missing was not recorded or not "
    "measured."
)
_ONLY_A_LOG = (
    "The options of the run, its data and what it started from are not recorded: `training_state.json` is missing. Its "
    "log is here:"
)
_LAYOUTS = {"MCL": "the published MCL code", "ResNet": "a ResNet of torchvision's names"}


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
    recorded = read_recorded(folder)
    results = read_results(recorded, repository, evaluations)
    heading = title or recorded.name
    state = recorded.state
    training, recipe, numbers = "How it was trained is not recorded.", "", ""
    if recorded.imported is not None:
        training = _import_text(recorded.imported)
    elif state is None and recorded.log:
        training, numbers = f"{_ONLY_A_LOG}\n\n{facts(log_rows(recorded))}", last_numbers(recorded)
    if state is not None:
        rows = pretraining_rows if recorded.detector is None else finetuning_rows
        training = facts(rows(recorded, data_name, data_license))
        recipe, numbers = recipe_text(recorded), last_numbers(recorded)
    header = metadata(recorded, results, heading, license).to_yaml()
    check_card(f"---\n{header}\n---\n")
    parts = {
        "metadata": header,
        "title": plain(heading),
        "summary": f"{_summary(recorded)}\n\n{_RENDERED}",
        "status": "",
        "doors": doors(recorded, repository, with_timm, with_code, pretraining),
        "training": training,
        "recipe": recipe,
        "numbers": numbers,
        "evaluation": evaluation_text(recorded, results),
        "limitations": bullets(limitations(recorded, data_license, license)),
        "never_run": bullets(never_run(recorded, results)),
    }
    # Last, when all else is well: these are files.
    shown = [] if pictures is None else draw_pictures(recorded, pictures, pictures_of_data)
    curves = _pictures_text(shown) or why_no_curves(recorded, pictures is not None) or ""
    return fill_template({**parts, "curves": curves})


def write_card(target: Path, text: str) -> None:
    """Write a card whole or not at all, making its folder.

    Raises:
        InputError: it cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(target)
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error.strerror or error}") from error


def fill_template(values: Mapping[str, Any]) -> str:
    """The template with every one of its places filled."""
    text = resources.files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8")
    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    return environment.from_string(text).render(**values, fenced=fenced)


def _summary(recorded: Recorded) -> str:
    """What it is, in one or two sentences."""
    config, state = recorded.config, recorded.state
    backbone = code(config["backbone"])
    if recorded.detector is not None:
        what = f"A {TITLES[recorded.detector]} with a {backbone} backbone and FPN for {len(config['id2label'])} classes"
        return f"{what}, fine-tuned from {start_text(state)}." if state is not None else f"{what}."
    if state is not None:
        variant = ", supervised" if recorded.supervised else ""
        how = "with labels" if recorded.supervised else "without labels"
        what = f"A {backbone} backbone, feature pyramid and region head"
        return f"{what}, pre-trained {how} by {PAPER.format(variant=variant)} as the start of a detector."
    if recorded.imported is not None:
        parts = [plain(name) for name, (loaded, _) in recorded.imported["parts"].items() if loaded]
        return (
            f"{join(parts).capitalize()} of a {backbone}, taken from another program's checkpoint by `mcl-hf import`."
        )
    return f"A {backbone} backbone, feature pyramid and region head of mcl_hf."


def _import_text(imported: Mapping[str, Any]) -> str:
    """Where an imported checkpoint comes from."""
    layout = imported["layout"]
    parts = [
        f"{plain(name)} {loaded}/{total}" + ("" if loaded else " (new, random)")
        for name, (loaded, total) in imported["parts"].items()
    ]
    rows = [
        ("file", code(imported["file"])),
        ("SHA-256", code(imported["sha256"]) if imported.get("sha256") else "not recorded"),
        ("layout", plain(_LAYOUTS.get(layout, layout))),
        ("tensors that came", ", ".join(parts)),
        *[("remark", plain(remark)) for remark in imported.get("remarks", [])],
        ("imported by", f"mcl_hf {plain(imported.get('mcl_hf', 'of an unknown release'))}"),
    ]
    return f"Not trained here: no run is recorded. It was imported:\n\n{facts(rows)}"


def _pictures_text(shown: Sequence[tuple[str, str]]) -> str:
    return "\n\n".join(f"![{what}]({path})" for what, path in shown)
