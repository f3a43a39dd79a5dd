import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scenes.compose import Instance, Scene
from scenes.cutouts import load_index
from scenes.picture import annotated, draw_picture

from mcl_hf.errors import InputError


def test_the_picture_shows_and_names_only_what_may_be_shown(cutouts: Path, tmp_path: Path) -> None:
    draw_picture(cutouts, tmp_path / "new" / "scenes.png", size=48, columns=3, seed=0)
    with Image.open(tmp_path / "new" / "scenes.png") as image:
        assert image.size == (3 * 54 - 6, 2 * 54 - 6)
        sources = image.text["Sources"].split("; ")
    index = load_index(cutouts)
    licences = {row["source_file"]: row["licence"] for row in (*index["objects"], *index["backgrounds"])}
    for source in sources:
        name = source.split(" ")[1]
        assert licences[name] in ("public-domain", "CC0-1.0") and name.startswith(("disc", "place"))


def test_labelled_objects_are_coloured_and_distractors_only_dimmed() -> None:
    visible = np.zeros((2, 40, 40), dtype=bool)
    visible[0, 2:18, 2:18], visible[1, 22:38, 22:38] = True, True
    instances = [Instance({"label": "disc"}, visible[n], 256, n == 0) for n in range(2)]
    pixels = np.asarray(annotated(Scene(Image.new("RGB", (40, 40), (100, 100, 100)), instances)))
    assert (pixels[30, 30] == 45).all() and pixels[16, 16, 0] > 100


def test_without_such_sources_it_is_refused(cutouts: Path, tmp_path: Path) -> None:
    index = load_index(cutouts)
    (tmp_path / "index.json").write_text(
        json.dumps(index | {"objects": [row | {"licence": "GPL-2"} for row in index["objects"]]})
    )
    with pytest.raises(InputError, match="no cut-outs"):
        draw_picture(tmp_path, tmp_path / "scenes.png", size=48, columns=1, seed=0)
