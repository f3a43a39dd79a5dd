"""Pictures of a card: the run's curves, and only when asked those that show its data.

Where it sits: recorded -> **card_pictures** -> card. Curves are drawn anew from the log; matplotlib is an extra.
"""

import shutil
from importlib.util import find_spec
from pathlib import Path

from mcl_hf.errors import InputError
from mcl_hf.hub.recorded import Recorded
from mcl_hf.viz.curves import draw_curves

FOLDER = "pictures"
_CURVES = "training.png"
_PANELS = ("loss", "loss_classifier", "eval/box/AP", "level_losses", "positive_similarity", "accuracy", "probe/knn",
           "feature_std", "effective_rank")  # fmt: skip
_OF_DATA = {
    "pictures/montages.png": "What the model saw in its last step: full views, and the montages made of them",
    "pictures/similarity.png": "Where the model finds a region of a training image again",
    "evaluation/detections.png": "Validation images with their annotations and the detector's predictions",
}
PICTURES = frozenset(f"{FOLDER}/{Path(name).name}" for name in (_CURVES, *_OF_DATA))
"""All that a card may bring along, by path beside it."""


def draw_pictures(recorded: Recorded, beside: Path, of_data: bool) -> list[tuple[str, str]]:
    """Put the pictures into `pictures/`.

    Args:
        recorded: the model.
        beside: folder of the card.
        of_data: also copy those that show images of the data.

    Returns:
        (what it shows, path from the card's folder) of each.

    Raises:
        InputError: the folder cannot be written, or pictures of the data are asked for and there are none.
    """
    found: list[tuple[str, str]] = []
    of_the_data = {name: what for name, what in _OF_DATA.items() if of_data and (recorded.run_folder / name).is_file()}
    if of_data and not of_the_data:
        raise InputError(f"{recorded.run_folder} has no pictures of its data: runs by the command draw them")
    try:
        if recorded.log and find_spec("matplotlib") is not None:
            (beside / FOLDER).mkdir(parents=True, exist_ok=True)
            picture = draw_curves({recorded.name: recorded.log}, f"Training of {recorded.name}", _PANELS)
            picture.save(beside / FOLDER / _CURVES)
            found.append(("Curves of the run", f"{FOLDER}/{_CURVES}"))
        for name, what in of_the_data.items():
            source = recorded.run_folder / name
            target = beside / FOLDER / source.name
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.resolve() != source.resolve():
                shutil.copyfile(source, target)
            found.append((what, f"{FOLDER}/{source.name}"))
    except OSError as error:
        raise InputError(f"pictures cannot be written to {beside}: {error.strerror or error}") from error
    return found


def why_no_curves(recorded: Recorded, asked: bool) -> str | None:
    """Why a card has no curves; None where it has them, or there is no run to have any."""
    if recorded.state is None and not recorded.log:
        return None
    if not recorded.log:
        return "No log of the run was found, so there are no curves."
    if not asked:
        return "No curves were drawn with this card."
    if find_spec("matplotlib") is None:
        return "No curves: they are drawn with matplotlib, which was not installed where this card was written."
    return None
