"""A recipe and checkpoints that release 0.1.0 made open here, and their runs go on as they would have there.

`release_0_1_0/` holds a pre-training run and a fine-tuning run of three steps on the CPU, each as it was after step 2,
with the log of all three: `pretrain(recipe="recipe.yaml", data="photos")`, then Mask R-CNN from it on `scenes`.
"""

import json
import shutil
from pathlib import Path

import pytest

import mcl_hf
from mcl_hf import MCLBackbone, MCLForInstanceSegmentation, MCLForPreTraining

MADE = Path(__file__).parent / "release_0_1_0"


@pytest.fixture
def run_of_then(tmp_path):
    """The folder of a run as it was after step 2, and the log line of its third step."""

    def copy(name):
        folder = tmp_path / name
        shutil.copytree(MADE / name, folder)
        lines = (folder / "log.jsonl").read_text().splitlines()
        (folder / "log.jsonl").write_text("\n".join(lines[:2]) + "\n")
        return folder, json.loads(lines[2])

    return copy


def last_line(folder):
    return json.loads((folder / "log.jsonl").read_text().splitlines()[-1])


def test_pretraining_goes_on(run_of_then):
    folder, then = run_of_then("pre")
    result = mcl_hf.pretrain(
        recipe=str(MADE / "recipe.yaml"), data="photos", output_dir=str(folder), resume="auto", callbacks=()
    )
    now = last_line(folder)
    assert result.steps == 3 and now["step"] == 3
    for name in ("loss", "grad_norm", "target_momentum", "learning_rate"):
        assert now[name] == pytest.approx(then[name], rel=1e-4), name


def test_finetuning_goes_on(run_of_then):
    folder, then = run_of_then("det")
    options = json.loads((folder / "checkpoints/step-00000002/training_state.json").read_text())["arguments"]
    scenes = {name: str(MADE / "scenes") for name in ("images", "val_images")}
    scenes |= {name: str(MADE / "scenes" / "boxes.json") for name in ("data", "val_data")}
    given = {**options, **scenes, "init": str(run_of_then("pre")[0] / "checkpoints/step-00000002")}
    known = {name: value for name, value in given.items() if name not in ("compare", "output_dir", "resume")}
    result = mcl_hf.finetune(**known, output_dir=str(folder), resume="auto", callbacks=())
    now = last_line(folder)
    assert result.steps == 3 and now["step"] == 3
    assert now["loss"] == pytest.approx(then["loss"], rel=1e-3)


def test_its_models_open():
    whole = MCLForPreTraining.from_pretrained(MADE / "pre/checkpoints/step-00000002")
    assert whole.config.queue_size == 16
    assert len(MCLBackbone.from_pretrained(MADE / "pre/checkpoints/step-00000002").channels) == 4
    detector = MCLForInstanceSegmentation.from_pretrained(MADE / "det/checkpoints/step-00000002")
    assert detector.config.id2label == {0: "blue", 1: "red"}
