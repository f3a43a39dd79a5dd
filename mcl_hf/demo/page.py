"""The page: pictures to click in, detections with a threshold, curves of the run.

Flow: subject.py -> **page** (Gradio) -> a browser. It fetches nothing: no web fonts, no analytics, no shared address.
"""

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from ..data.decode import open_picture
from ..errors import InputError
from ..plain_text import plain_text
from ..viz.similarity import usual_side
from .subject import (
    Subject,
    detect,
    draw_detections,
    embedded_pictures,
    enlarged,
    find_region,
    for_regions,
    open_subject,
    region_around,
    shown_scale,
    with_region,
)

LOCAL = "127.0.0.1"
_FONTS = ["system-ui", "sans-serif"]
_HOW_REGIONS = (
    "Click in the first picture. The framed region is looked for in both, with boxes of four sizes, each read from its "
    "own level of the feature pyramid. Bright is similar; dashed is the best match."
)
_NO_CURVES = "No log of a run lies beside this checkpoint, so there are no curves."


def serve(
    checkpoint: str, images: Sequence[Path] = (), *, host: str = LOCAL, port: int | None = None, say: Any = print
) -> None:
    """Show the page until Ctrl-C.

    Args:
        checkpoint: see `open_subject`.
        images: one or two pictures to begin with; none: embedded photos, and for a detector none.
        host, port: to listen at; a Space listens at 0.0.0.0, and None takes the first free port from 7860 on.
        say: prints a line.

    Raises:
        InputError: Gradio is not installed, checkpoint or picture cannot be opened, or the port is taken.
    """
    gradio = _gradio()
    pictures = [open_picture(path) for path in images]
    page = build_page(open_subject(checkpoint), pictures)
    theme = gradio.themes.Default(font=_FONTS, font_mono=["monospace"])
    try:
        _, address, _ = page.launch(
            server_name=host, server_port=port, share=False, theme=theme, ssr_mode=False, prevent_thread_lock=True,
            quiet=True, footer_links=[],
        )  # fmt: skip
    except OSError as error:
        taken = port or "7860 and those above"
        raise InputError(f"port {taken} of {host} cannot be used: name a free one with --port") from error
    say(f"page: {address} (Ctrl-C ends it)")
    page.block_thread()


def _gradio() -> Any:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when it is imported
    try:
        import gradio
    except ModuleNotFoundError as error:
        raise InputError("the page is built with gradio, which is not installed: pip install 'mcl_hf[demo]'") from error
    return gradio


def build_page(subject: Subject, pictures: Sequence[Image.Image] = ()) -> Any:
    """The page as `gradio.Blocks`, which `launch` shows; for pictures and errors see `serve`."""
    gradio = _gradio()
    if subject.processor is not None and len(pictures) > 1:
        raise InputError(f"the page of a detector begins with one picture, got {len(pictures)}")
    title = plain_text(subject.name)
    with gradio.Blocks(title=f"mcl-hf demo: {title}", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gradio.HTML(f"<h1 style='margin: 0'>{escape(title)}</h1>{escape(subject.summary)}")
        if subject.processor is None:
            with gradio.Tab("Regions"):
                _regions(gradio, page, subject, pictures or embedded_pictures())
        else:
            with gradio.Tab("Detections"):
                _detections(gradio, page, subject, pictures)
        with gradio.Tab("Curves of the run"):
            if subject.curves is None:
                gradio.Markdown(_NO_CURVES)
            else:
                gradio.Image(subject.curves, **_still())
    return page


def _regions(gradio: Any, page: Any, subject: Subject, pictures: Sequence[Image.Image]) -> None:
    """Two pictures to click in or replace, and below them the maps of all levels."""
    model = subject.model
    first, second = for_regions(pictures[0]), for_regions(pictures[-1])
    gradio.Markdown(_HOW_REGIONS)
    first_state, second_state = gradio.State(first), gradio.State(second)
    centre = gradio.State((first.width / 2, first.height / 2))
    with gradio.Row():
        with gradio.Column():
            shown = gradio.Image(enlarged(first), **_still("first: click a region"), elem_id="first", height=290)
            new_first = _upload(gradio, "Another first picture", "new-first")
        with gradio.Column():
            shown_second = gradio.Image(enlarged(second), **_still("second"), elem_id="second", height=290)
            new_second = _upload(gradio, "Another second picture", "new-second")
    smallest = 4 * model.config.region_size
    side = gradio.Slider(smallest, 16 * smallest, usual_side(model, first), step=1, label="side of the region, px")
    same = gradio.Image(**_still(), elem_id="same")
    other = gradio.Image(**_still(), elem_id="other")

    def look(first: Image.Image, second: Image.Image, at: tuple[float, float], side: float) -> list[Image.Image]:
        box = region_around(first, at, side)
        return [with_region(first, box), find_region(model, first, box), find_region(model, first, box, second)]

    def click(event: gradio.SelectData, first: Image.Image) -> tuple[float, float]:
        scale = shown_scale(first)
        return event.index[0] / scale, event.index[1] / scale

    def replace_first(path: str) -> tuple[Image.Image, tuple[float, float]]:
        picture = for_regions(_opened(gradio, path))
        return picture, (picture.width / 2, picture.height / 2)

    def replace_second(path: str) -> tuple[Image.Image, Image.Image]:
        picture = for_regions(_opened(gradio, path))
        return picture, enlarged(picture)

    looking = _private(look, [first_state, second_state, centre, side], [shown, same, other])
    page.load(**looking)
    shown.select(**_private(click, first_state, centre)).then(**looking)
    side.release(**looking)
    new_first.upload(**_private(replace_first, new_first, [first_state, centre])).success(**looking)
    new_second.upload(**_private(replace_second, new_second, [second_state, shown_second])).success(**looking)


def _detections(gradio: Any, page: Any, subject: Subject, pictures: Sequence[Image.Image]) -> None:
    """A picture with what the detector finds in it."""
    picture_state, found_state = gradio.State(pictures[0] if pictures else None), gradio.State()
    with gradio.Row():
        new = _upload(gradio, "Choose a picture", "new-picture")
        threshold = gradio.Slider(0, 1, 0.5, step=0.01, label="smallest score", elem_id="threshold")
    said = gradio.Textbox(show_label=False, interactive=False, elem_id="said", container=False)
    drawn = gradio.Image(**_still(), elem_id="found")

    def find(picture: Image.Image | None) -> Any:
        return None if picture is None else detect(subject, picture)

    def draw(picture: Image.Image | None, found: Any, threshold: float) -> tuple[Image.Image | None, str]:
        if picture is None:
            return None, "Choose a picture to look for objects in."
        return draw_detections(subject, picture, found, threshold)

    finding = _private(find, picture_state, found_state)
    drawing = _private(draw, [picture_state, found_state, threshold], [drawn, said])
    page.load(**finding).then(**drawing)
    threshold.release(**drawing)
    opening = _private(lambda path: _opened(gradio, path), new, picture_state)
    new.upload(**opening).success(**finding).then(**drawing)


def _private(fn: Any, inputs: Any, outputs: Any) -> dict[str, Any]:
    """What an event of the page does; nobody calls it from elsewhere."""
    return {"fn": fn, "inputs": inputs, "outputs": outputs, "api_visibility": "private"}


def _still(label: str = "") -> dict[str, Any]:
    """Options of an image that is shown, and not edited."""
    still = {"type": "pil", "format": "png", "interactive": False, "buttons": ["fullscreen"]}
    return {**still, "label": label, "show_label": bool(label)}


def _upload(gradio: Any, label: str, name: str) -> Any:
    return gradio.UploadButton(label, file_types=["image"], type="filepath", size="sm", elem_id=name)


def _opened(gradio: Any, path: str) -> Image.Image:
    """The picture that a user chose; what is none is one line on the page."""
    try:
        return open_picture(Path(path), plain_text(Path(path).name))
    except InputError as error:
        raise gradio.Error(escape(str(error)), duration=None, print_exception=False) from error
