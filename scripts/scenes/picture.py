"""One picture of example scenes and their annotations that may be shown: public domain and CC0 only, no people.

Flow: pool -> compose -> **picture**. The cut-outs of the other sources stay on the user's machine, so what is printed
beside the documentation comes from here.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from .compose import MIN_VISIBLE_PX, Scene, compose_scene
from .cutouts import load_index
from .pool import make_pool

COLOURS = ((230, 85, 60), (60, 150, 230), (245, 190, 40), (110, 200, 90), (190, 110, 220), (60, 200, 190))
GAP_PX = 6


def draw_picture(cutouts: Path, out: Path, *, size: int, columns: int, seed: int) -> None:
    """Write a row of scenes above a row of the same scenes with their masks, boxes and classes, as PNG.

    Args:
        cutouts: a folder that `prepare` wrote.
        out: the file to write.
        size: side of a scene, px.
        columns: scenes; every other one is blended as half of the test split is.
        seed: draws the scenes.

    Raises:
        InputError: no cut-outs there, or none in the public domain.
    """
    pool = make_pool(load_index(cutouts), 0, "train", public_domain=True)
    scenes = []
    for number in range(columns):
        rng = np.random.default_rng([seed, number])
        scenes.append(compose_scene(pool, cutouts, size, rng, ("feathered", "poisson")[number % 2]))
    step = size + GAP_PX
    sheet = Image.new("RGB", (columns * step - GAP_PX, 2 * step - GAP_PX), "white")
    for column, scene in enumerate(scenes):
        sheet.paste(scene.image, (column * step, 0))
        sheet.paste(annotated(scene), (column * step, step))
    out.parent.mkdir(parents=True, exist_ok=True)
    notes = PngInfo()
    notes.add_text("Sources", "; ".join(sources(scenes)))
    sheet.quantize(256).save(out, optimize=True, pnginfo=notes)  # a palette: a third of the bytes


def sources(scenes: Sequence[Scene]) -> list[str]:
    """Package, file and licence of everything that the scenes show."""
    rows = [row for scene in scenes for row in (scene.background, *(one.row for one in scene.instances))]
    return sorted({f"{row['package']} {row['source_file']} ({row['licence']})" for row in rows})


def annotated(scene: Scene, colours: Sequence[tuple[int, int, int]] = COLOURS) -> Image.Image:
    """The scene, dimmed, with each labelled object's mask in a colour, its box and its class."""
    pixels = np.asarray(scene.image).astype(np.float32) * 0.45  # (S, S, 3)
    shown = [one for one in scene.instances if one.labelled and one.visible.sum() >= MIN_VISIBLE_PX]
    for number, instance in enumerate(shown):
        pixels[instance.visible] += 0.5 * np.array(colours[number % len(colours)], dtype=np.float32)
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for number, instance in enumerate(shown):
        rows, columns = np.nonzero(instance.visible)
        draw.rectangle((columns.min(), rows.min(), columns.max(), rows.max()), outline=colours[number % len(colours)])
        text = str(instance.row["label"])
        left = min(int(columns.min()) + 2, image.width - int(draw.textlength(text)) - 1)
        draw.text((max(0, left), int(rows.min()) + 1), text, fill="white")
    return image
