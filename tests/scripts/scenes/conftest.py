"""Tiny cut-outs, drawn here, and packages that hold such: no test needs the real ones."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).parents[3] / "scripts"))  # as for `python scripts/make_scenes.py`

from scenes.fetch import DEBIAN_PACKAGES, UNPACKED

from tests.scripts.scenes.drawing import drawn, encoded, rcc

CLASSES = ("disc", "box", "sign")


@pytest.fixture(scope="session")
def cutouts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of cut-outs as `prepare` writes it: three classes of twelve groups, extras, twelve places."""
    root = tmp_path_factory.mktemp("cutouts")
    for folder in ("objects", "backgrounds"):
        (root / folder).mkdir()
    rng = np.random.default_rng(0)
    objects = []
    for label in (*CLASSES, "extra"):
        for group in range(12):
            for picture in range(1 + group % 2):
                number = len(objects)
                image = drawn(label, tuple(int(value) for value in rng.integers(0, 255, 3)), 40 + 4 * picture)
                image.save(root / f"objects/{number:05d}.png")
                licence = "public-domain" if group < 6 and label == "disc" else "GPL-2"
                objects.append(
                    {"id": number, "file": f"objects/{number:05d}.png", "label": label, "kind": "photo"}
                    | {"group": f"{label}:{group}", "distractor": label == "extra" and group < 9, "package": "drawn"}
                    | {"licence": licence, "source_file": f"{label}/{group}"}
                )
    places = []
    for number in range(12):
        pixels = rng.integers(0, 255, (6, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize((160, 120), Image.Resampling.BICUBIC).save(
            root / f"backgrounds/{number:03d}.jpg"
        )
        places.append(
            {"id": number, "file": f"backgrounds/{number:03d}.jpg", "group": f"place{number}", "package": "drawn"}
            | {"licence": "CC0-1.0", "source_file": f"place/{number}"}
        )
    index = {"classes": list(CLASSES), "packages": {}, "objects": objects, "backgrounds": places}
    (root / "index.json").write_text(json.dumps(index))
    return root


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `fetch` leaves it, with a few drawn pictures under the names of real ones."""
    root = tmp_path_factory.mktemp("sources")
    for package in DEBIAN_PACKAGES:
        notice = root / UNPACKED / package / "usr/share/doc" / package / "copyright"
        notice.parent.mkdir(parents=True)
        notice.write_text("Format: x\n\nFiles: *\nLicense: GPL-2\n\nFiles: Media/*\nLicense: CC-BY-SA-3.0\n text\n")
    stamps = root / UNPACKED / "tuxpaint-stamps-default/usr/share/tuxpaint/stamps"
    for name in (
        "animals/birds/owl", "animals/birds/cartoon/tux", "animals/birds/owl_mirror", "animals/mammals/bovines/cow",
        "animals/mammals/bovines/cow_white", "sports/soccer", "household/toolbox", "symbols/math/0",
    ):  # fmt: skip
        path = stamps / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn("disc", (200, 30, 60)).save(path)
    person = root / UNPACKED / "scratch/usr/share/scratch/Media/Costumes/People/dan1.gif"
    person.parent.mkdir(parents=True)
    drawn("box", (20, 90, 60)).save(person)
    wood = root / UNPACKED / "gnome-backgrounds/usr/share/backgrounds/gnome/wood-d.webp"
    wood.parent.mkdir(parents=True)
    Image.new("RGB", (80, 60), (90, 60, 30)).save(wood)
    archives = root / UNPACKED / "gcompris-qt-data/usr/share/gcompris-qt/rcc"
    archives.mkdir(parents=True)
    fish = Image.new("RGBA", (120, 60))
    fish.paste(drawn("disc", (0, 0, 200)), (0, 0))
    fish.paste(drawn("box", (0, 200, 0)), (60, 0))
    tool = Image.new("RGB", (80, 60), "white")
    ImageDraw.Draw(tool).rectangle((20, 20, 60, 40), fill=(90, 20, 20))
    base = "gcompris/src/activities"
    readme = (
        b"Copyright: A\nLicense: Public Domain\nFiles:\nf01.webp\n\nCopyright: B\nLicense: CC0-1.0\nFiles:\nsea1.webp\n"
    )
    places = {f"{base}/clickgame/resource/sea1.webp": encoded(Image.new("RGB", (70, 50), (0, 80, 90)))}
    fishes = {f"{base}/clickgame/resource/f01.webp": encoded(fish), f"{base}/clickgame/resource/README": readme}
    tools = {f"{base}/categorization/resource/images/tools/plier1.webp": encoded(tool)}
    (archives / "clickgame.rcc").write_bytes(rcc({**places, **fishes}))
    (archives / "categorization.rcc").write_bytes(rcc(tools))
    (archives / "explore_monuments.rcc").write_bytes(rcc({f"{base}/explore_monuments/resource/README": b""}))
    return root
