"""Model cards: what was recorded of a model, as the text of a README.md that the Hub reads.

Where it sits: a folder with its training state, log and evaluations -> **card** -> README.md, `publish.py`.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from mcl_hf.errors import InputError


def render_card(
    folder: Path,
    *,
    repository: str | None = None,
    title: str | None = None,
    license: str = "apache-2.0",
    evaluations: Sequence[Path] = (),
    pictures: Path | None = None,
    with_timm: bool = False,
    with_code: bool = False,
) -> str:
    """The card of a model, from what was recorded of it.

    Args:
        folder: a run's folder, its `pretraining/`, a checkpoint, a fine-tuned detector or an imported checkpoint.
        repository: `user/name` that it is published as; None: it is opened from its folder.
        title: first heading; the folder's name where left out.
        license: of the weights, as the Hub names it.
        evaluations: further result files: metrics.json, probe.json, comparison.json.
        pictures: folder that curves are drawn into, as PNG; the card lies beside it. None: no pictures.
        with_timm: `repository`-timm is published, too.
        with_code: the repository carries the code of its model.

    Raises:
        InputError: `folder` holds no model of ours, or a file in it cannot be read.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} holds no model: config.json cannot be read") from error
    detector = config.get("model_type") == "mcl_detector"
    name = title or folder.resolve().name
    data = ModelCardData(
        license=license,
        library_name="transformers",
        pipeline_tag="object-detection" if detector else "image-feature-extraction",
        tags=["mcl_hf", "object-detection"],
    )
    return f"---\n{data.to_yaml()}\n---\n\n# {name}\n"


def check_card(text: str) -> None:
    """Refuse a card that the Hub would not take.

    Raises:
        InputError: one line: what is wrong with its metadata.
    """
    try:
        ModelCard(text)
    except Exception as error:  # YAML's and the Hub client's own errors share no type
        raise InputError(f"the card does not parse: {' '.join(str(error).split())}") from error
