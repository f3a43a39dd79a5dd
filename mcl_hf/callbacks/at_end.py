"""What a run writes when it has ended: pictures of what it saw, how it learned and what it finds similar; and its card.

Callbacks of the training loop (`mcl_hf.engine.run.Callback`), among `default_callbacks`; on the main process. The model
is whole by then, so what cannot be made is only said. Pictures lie in OUTPUT_DIR/pictures/ and leave the machine only
with `log_images`.
"""

from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ..data import BrokenImage
from ..errors import InputError
from ..files import is_somebodys, sealed
from ..hub.card import render_card, write_card
from ..viz import curves_picture, draw_similarity, montage_picture

if TYPE_CHECKING:
    from ..engine.run import Run


class RunPictures:
    """Writes montages.png, and with matplotlib also curves.png and similarity.png."""

    def on_end(self, run: "Run") -> None:
        """Draw and write the pictures."""
        if not run.accelerator.is_main_process:
            return
        try:
            self._draw(run)
        except (InputError, OSError) as error:  # the log or the data are gone, or the disk is full
            run.tracking.print(f"warning: not all pictures were drawn: {error}")

    def _draw(self, run: "Run") -> None:
        pictures = {}
        if run.batch is not None:  # None when a finished run is resumed: the batch's picture is already there
            views = run.batch.views
            ratios = run.network.config.montage_ratios
            pictures["montages"] = montage_picture(
                views.views_a, views.views_b, run.batch.montage_a, run.batch.montage_b, ratios
            )
        if find_spec("matplotlib") is None:
            run.tracking.print("curves and similarity maps are drawn with matplotlib: pip install 'mcl_hf[viz]'")
        else:
            if run.metrics:  # empty where a finished checkpoint was opened in a new folder
                pictures["curves"] = curves_picture(run.output_dir)
            if run.network.config.num_channels in (1, 3):  # others are no pictures
                # of a finished run that is resumed the first image is asked for, which may be a broken one
                with suppress(BrokenImage):
                    pictures["similarity"] = draw_similarity(run.network.mcl, _an_image(run))
        folder = run.output_dir / "pictures"
        folder.mkdir(exist_ok=True)
        for name, picture in pictures.items():
            picture.save(folder / f"{name}.png")
            if run.arguments.log_images:
                run.tracking.log_picture(name, np.asarray(picture), run.state.step)
        run.tracking.print(f"pictures: {' '.join(str(folder / f'{name}.png') for name in pictures)}")


def _an_image(run: "Run") -> Image.Image:
    """The first image of the last batch, as it lies in the source: not cropped, not coloured. A BrokenImage where it
    cannot be read, or no longer."""
    index = 0 if run.batch is None else int(run.batch.views.sample_ids[0])
    channels = run.network.config.num_channels
    pixels = run.loader.source.sample(index).open(channels).decode(channels)  # (H, W, C) uint8
    return Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)


class CardWriter:
    """The card takes the place of a finished run's README, if that is not somebody's."""

    def on_end(self, run: "Run") -> None:
        """Write the card."""
        if not run.accelerator.is_main_process:
            return
        readme = run.output_dir / "README.md"
        if is_somebodys(readme):
            run.tracking.print(f"{readme} was written by somebody, and stays: mcl-hf card --out FILE writes the card")
            return
        try:
            write_card(readme, sealed(render_card(run.output_dir, pictures=run.output_dir)))
        except InputError as error:
            run.tracking.print(f"warning: no card was written: {error}")
