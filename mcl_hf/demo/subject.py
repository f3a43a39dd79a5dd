"""What the page looks at: a checkpoint of any kind, and everything that is drawn of it.

Flow: checkpoint -> **subject** -> page.py. Gradio is not needed here.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ..annotations.masks import MaskSequence
from ..data import decode_image, open_source
from ..detectors.open_detector import open_detector
from ..errors import InputError
from ..evaluation import predict_data
from ..evaluation.results import ImageDetections
from ..hub.card_data import LOG, run_folder
from ..models.configuration_mcl import MCLConfig
from ..plain_text import plain_text
from ..prediction.tiles import cut
from ..probe.networks import open_checkpoint
from ..remote.checkpoints import fetch, hub_source
from ..transfer.checkpoint import find_folder
from ..viz.curves import draw_curves, read_log
from ..viz.detections import DrawnObjects, draw_objects
from ..viz.similarity import Box, level_maps, levels_picture, shrink, to_pixel_values

LONGEST_SIDE = 512  # px of a picture in which regions are looked for
POSITIONS = 20  # regions along its longer side
SHOWN = 640  # px of the picture that is clicked in
_EMBEDDED = ("windmill3_01.jpg", "windmill5_01.jpg")
_DETECTIONS_SIDE = 900  # px, the longer one; smaller pictures are enlarged, so that names can be read
_CARD_CURVES = "pictures/training.png"


@dataclass(frozen=True)
class Subject:
    """A checkpoint that was opened."""

    name: str  # as it was given
    model: Any  # `MCLModel`, or a detector; in eval mode
    processor: Any | None  # image processor of a detector; None: the model is no detector
    curves: Image.Image | None  # of its run; None where no log of one is there

    @property
    def summary(self) -> str:
        """One line: what it is."""
        config = self.model.config
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        if self.processor is None:
            kind = f"{config.backbone} with feature pyramid and region head"
        else:
            kind = f"{getattr(config, 'detector', config.model_type)} for {len(config.id2label)} classes"
        return f"{kind}, {parameters:,} parameters"


def open_subject(name: str) -> Subject:
    """Open the folder of a run, a checkpoint, a detector (also of transformers), a Hub repository, or `demo`.

    Raises:
        InputError: nothing there that can be looked at, or matplotlib is not installed.
    """
    folder, description = find_folder(name)
    if description.get("model_type") == MCLConfig.model_type:
        model, processor = open_checkpoint(str(folder)), None
        if model.config.num_channels not in (1, 3):
            raise InputError(f"{name} reads images of {model.config.num_channels} channels, which are no pictures")
    else:
        model, processor = open_detector(str(folder))
    return Subject(name, model, processor, _curves(name, folder))


def _curves(name: str, folder: Path) -> Image.Image | None:
    """Curves of the run: from its log, or where a repository holds none, those of its card."""
    run = run_folder(folder.resolve())
    source = hub_source(name)
    if source is not None:
        try:
            run = fetch(source, [LOG, _CARD_CURVES])
        except ValueError as error:
            raise InputError(str(error)) from error
    if (run / LOG).is_file():
        return draw_curves({name: read_log(run)})
    if (run / _CARD_CURVES).is_file():
        return Image.open(run / _CARD_CURVES).convert("RGB")
    return None


def embedded_pictures() -> list[Image.Image]:
    """Two of the photos that come with the package."""
    photos = open_source("photos")
    names = {photos.name(index): index for index in range(len(photos))}
    found = [next(index for name, index in names.items() if wanted in name) for wanted in _EMBEDDED]
    return [Image.fromarray(decode_image(photos.sample(index).bytes_)) for index in found]


def region_around(picture: Image.Image, centre: tuple[float, float], side: float) -> tuple[float, ...]:
    """A square of `side` px around a point, moved into the picture, no larger than that; x0, y0, x1, y1 in px."""
    side = min(side, *picture.size)
    x0, y0 = (min(max(at - side / 2, 0), full - side) for at, full in zip(centre, picture.size, strict=True))
    return x0, y0, x0 + side, y0 + side


def with_region(picture: Image.Image, box: Box) -> Image.Image:
    """The picture with the region framed, enlarged to `SHOWN` px where it is smaller."""
    shown = enlarged(picture)
    draw = ImageDraw.Draw(shown)
    for colour, width in (("white", 5), ("#d7191c", 3)):
        draw.rectangle([edge * shown_scale(picture) for edge in box], outline=colour, width=width)
    return shown


def enlarged(picture: Image.Image) -> Image.Image:
    """The picture as it is shown on the page."""
    scale = shown_scale(picture)
    return picture.convert("RGB").resize((round(picture.width * scale), round(picture.height * scale)))


def shown_scale(picture: Image.Image) -> float:
    """Px on the page for each px of a picture."""
    return max(1.0, SHOWN / max(picture.size))


def find_region(model: Any, picture: Image.Image, box: Box, searched: Image.Image | None = None) -> Image.Image:
    """Where a region, in px of a picture that `for_regions` made, is found again; `searched` None: in the same."""
    other = None if searched is None else to_pixel_values(searched, model)
    maps = level_maps(model, to_pixel_values(picture, model), box, searched=other, positions=POSITIONS)
    return levels_picture(picture, box, maps, searched, "in the first picture" if searched is None else "in the second")


def for_regions(picture: Image.Image) -> Image.Image:
    """A picture as regions are looked for in it."""
    return shrink(picture.convert("RGB"), LONGEST_SIDE)


# --- detections -------------------------------------------------------------------------------------------------------


def detect(subject: Subject, picture: Image.Image) -> ImageDetections:
    """What the detector finds, best first, whatever the score."""
    items: Any = cut(0, np.array(picture.convert("RGB")), 0, 0.0)  # the whole picture as one tile
    return predict_data.predict(subject.model, subject.processor, items)[0]


def draw_detections(
    subject: Subject, picture: Image.Image, found: ImageDetections, threshold: float
) -> tuple[Image.Image, str]:
    """Boxes and masks of the objects that score at least `threshold`, drawn in; and how many of which class."""
    kept = np.flatnonzero(found.scores >= threshold)
    labels = [plain_text(subject.model.config.id2label[int(n)]) for n in found.labels[kept]]
    texts = [f"{label} {score:.2f}" for label, score in zip(labels, found.scores[kept], strict=True)]
    masks = None
    if found.masks is not None:
        masks = MaskSequence([found.masks[n] for n in kept.tolist()], picture.height, picture.width)
    scale = max(1.0, _DETECTIONS_SIDE / max(picture.size))
    size = (round(picture.width * scale), round(picture.height * scale))
    objects = DrawnObjects(found.boxes[kept], found.labels[kept], texts, masks)
    counted = ", ".join(f"{count} {label}" for label, count in Counter(labels).most_common())
    said = f"{len(kept)} of {len(found.scores)} objects score at least {threshold:.2f}"
    if not labels and len(found.scores):
        said += f", the highest {found.scores.max():.3g}"
    return draw_objects(np.asarray(picture.convert("RGB")), objects, size), f"{said}: {counted}" if counted else said
