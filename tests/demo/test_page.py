"""The page in a real browser: it loads, a click draws maps, a wrong file is one line, and it asks nobody else.

Needs Gradio (extra `demo`), playwright (pip) and a Chromium, Debian's or playwright's own; skipped where one is absent.
"""

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mcl_hf import MCLImageProcessor
from tests.tiny_detector import tiny_config, tiny_detector

pytest.importorskip("gradio", reason="gradio is not installed: pip install 'mcl_hf[demo]'")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
pytestmark = pytest.mark.slow
WAIT_MS = 120_000
CHANGED = "([name, before]) => (document.querySelector(`#${name} img`)?.src ?? before) !== before"


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with playwright.sync_playwright() as started:
        if chromium is None and not Path(started.chromium.executable_path).exists():
            pytest.skip("no chromium on this machine")
        opened = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def show(browser, tmp_path) -> Iterator[object]:
    """`show("demo", ...)` opens the page of `mcl-hf demo demo ...`, which runs in a process of its own."""
    port = 7900 + os.getpid() % 90
    local = f"http://127.0.0.1:{port}"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "GRADIO_TEMP_DIR": str(tmp_path / "gradio")}
    asked, served = set(), []

    def opened(*arguments: str) -> object:
        command = [sys.executable, "-m", "mcl_hf.cli", "demo", *arguments, "--port", str(port)]
        served.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment))
        assert served[0].stdout.readline().startswith(f"page: {local}")
        page = browser.new_page(viewport={"width": 1300, "height": 1200})
        page.set_default_timeout(WAIT_MS)
        page.on("request", lambda request: asked.add("/".join(request.url.split("/")[:3])))
        page.goto(local)
        return page

    yield opened
    for process in served:
        process.terminate()
        process.communicate(timeout=60)
    assert asked == {local}  # no fonts, no analytics


def drawn(page: object, name: str) -> np.ndarray:
    """Pixels of a picture on the page."""
    answer = page.request.get(page.locator(f"#{name} img").get_attribute("src"))
    return np.asarray(Image.open(io.BytesIO(answer.body())).convert("RGB")).astype(int)


def after(page: object, name: str, doing: object) -> np.ndarray:
    """Pixels of a picture once something has changed it."""
    before = page.locator(f"#{name} img").get_attribute("src")
    doing()
    page.wait_for_function(CHANGED, arg=[name, before])
    return drawn(page, name)


def choose(page: object, button: str, file: Path) -> None:
    """Upload a file by a button."""
    with page.expect_file_chooser() as chooser:
        page.locator(f"#{button}").click()
    chooser.value.set_files(file)


def red(pixels: np.ndarray) -> np.ndarray:
    """Middle of the frame around the region, as shares of width and height."""
    rows, columns = np.nonzero((pixels == (0xD7, 0x19, 0x1C)).all(axis=-1))
    return np.array([columns.mean() / pixels.shape[1], rows.mean() / pixels.shape[0]])


def test_a_click_draws_the_maps_and_a_wrong_file_is_one_line(show, tmp_path):
    page = show("demo")
    page.locator("#other img").wait_for()
    first = page.locator("#first img")
    begun, maps = drawn(page, "first"), drawn(page, "same")
    assert np.abs(red(begun) - 0.5).max() < 0.03
    box = first.bounding_box()
    side = min(box["width"], box["height"])  # the picture is a square in the middle of its box
    at = (box["x"] + box["width"] / 2 - 0.2 * side, box["y"] + box["height"] / 2 + 0.15 * side)
    clicked = after(page, "same", lambda: page.mouse.click(*at))
    assert np.abs(clicked - maps).mean() > 1
    assert np.abs(red(drawn(page, "first")) - (0.3, 0.65)).max() < 0.03

    (tmp_path / "notes.png").write_text("no picture at all")
    choose(page, "new-first", tmp_path / "notes.png")
    said = page.locator(".toast-body").first
    said.wait_for()
    lines = said.inner_text().splitlines()
    assert [line for line in lines if "notes.png is not a picture that can be read" in line]
    assert "Traceback" not in said.inner_text() and str(tmp_path) not in said.inner_text()

    Image.new("RGB", (90, 60), "green").save(tmp_path / "green.png")
    new = after(page, "first", lambda: choose(page, "new-first", tmp_path / "green.png"))
    assert new[0, 0].tolist() == [0, 128, 0] and np.abs(red(new) - 0.5).max() < 0.03


def test_a_detector_draws_what_scores_above_the_threshold(show, tmp_path):
    model = tiny_detector()
    model.save_pretrained(tmp_path / "detector")
    MCLImageProcessor.from_config(tiny_config()).save_pretrained(tmp_path / "detector")
    picture = tmp_path / "picture.png"
    noise = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((128, 96)).save(picture)
    page = show(str(tmp_path / "detector"), "--image", str(picture))
    page.locator("#found img").wait_for()
    said = page.locator("#said textarea")
    none = drawn(page, "found")
    assert said.input_value().startswith("0 of ")  # nothing was trained: no score reaches 0.5

    def lower() -> None:
        page.locator("#threshold input[type=number]").fill("0")
        page.locator("#threshold input[type=number]").press("Enter")
        page.locator("#threshold input[type=number]").blur()

    assert np.abs(after(page, "found", lower) - none).mean() > 1
    assert not said.input_value().startswith("0 of ")
