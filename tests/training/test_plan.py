"""The sums of a plan on numbers made up here, and a rehearsal of a tiny run."""

import json

import pytest

from mcl_hf.errors import InputError
from mcl_hf.finetuning.arguments import FinetuneArguments
from mcl_hf.finetuning.rehearsal import rehearse_detector
from mcl_hf.pretraining.arguments import PretrainArguments
from mcl_hf.pretraining.plan import Line, Measured, disagreement, largest_batch, make_plan
from mcl_hf.pretraining.rehearsal import backbone_images, rehearse
from tests.finetuning.test_finetune import TINY as FINETUNE
from tests.scenes import write_scenes

from .conftest import TINY


def images(batch_size: int) -> int:
    return batch_size + batch_size // 4 + 1


def measured(batch_size: int) -> Measured:
    """A step of 0.5 s + 0.1 s an image of the backbone, 1 GiB + 0.2 GiB each."""
    m = images(batch_size)
    return Measured(batch_size, m, 0.5 + 0.1 * m, 1.0 + 0.2 * m, checkpoint_bytes=2**30, finished_bytes=2**29)


def test_a_line_goes_through_its_ends_and_never_falls():
    line = Line.through([(10, 2.0), (20, 3.0)])
    assert line.at(40) == pytest.approx(5.0) and line.at(0) == pytest.approx(1.0)
    assert Line.through([(10, 2.0)]).at(30) == pytest.approx(6.0)
    assert Line.through([(10, 2.0), (20, 1.9)]).at(40) == pytest.approx(1.9)


def test_the_largest_batch_is_the_last_that_fits():
    memory = Line(1.0, 0.2)
    largest = largest_batch(memory, images, room_gib=9.0)
    assert memory.at(images(largest)) <= 9.0 < memory.at(images(largest + 1))
    assert largest_batch(memory, images, room_gib=1.1) == 0


def test_a_busy_machine_shows_in_the_time_of_an_image():
    calm, busy = Measured(8, 11, 1.1, 1.0, 1, 1), Measured(16, 21, 8.4, 1.0, 1, 1)
    assert disagreement([calm, calm]) == 1.0 and disagreement([calm, busy]) == pytest.approx(4.0)


def test_a_plan_extrapolates_to_the_runs_own_batch_processes_and_steps():
    plan = make_plan(
        [measured(8), measured(16)],
        batch_size=64,
        backbone_images=images,
        passes=2,
        world_size=3,
        max_steps=1000,
        images_per_core_second=5.0,
        kept_checkpoints=4,
    )
    seconds = 2 * (0.5 + 0.1 * images(64))  # two passes
    assert plan.seconds_per_step == pytest.approx(seconds)
    assert plan.images_per_second == pytest.approx(3 * 128 / seconds)
    assert plan.hours == pytest.approx(1000 * seconds / 3600)
    assert plan.peak_gib == pytest.approx(1.0 + 0.2 * images(64))
    assert plan.data_cores == pytest.approx(128 / seconds / 5.0)
    assert plan.disk_gib == pytest.approx(4 + 0.5)


def test_a_rehearsal_measures_real_steps_and_leaves_nothing(photos, tmp_path):
    options = {**TINY, "data": str(photos), "global_batch_size": 64, "report_to": ["tensorboard"]}
    options.pop("batch_size")
    arguments = PretrainArguments(**options)
    found = rehearse(arguments, batch_size=4, folder=tmp_path)
    assert found.batch_size == 4 and found.backbone_images == backbone_images(arguments, 4) == 4 + 1 + 1
    assert 0 < found.seconds < 60 and 0.1 < found.peak_gib < 16
    assert found.checkpoint_bytes > 0 and found.finished_bytes > 0
    assert list(tmp_path.iterdir()) == []


def test_a_rehearsal_says_what_the_run_itself_would_say(tmp_path):
    options = {**TINY, "data": str(tmp_path / "nowhere"), "output_dir": "unused"}
    with pytest.raises(InputError, match="nowhere"):
        rehearse(PretrainArguments(**options), batch_size=4)


def test_a_detectors_rehearsal_measures_on_an_image_with_objects(tmp_path):
    for split in ("train", "val"):
        write_scenes(tmp_path / "data", 4, split=split)
    file = tmp_path / "data/annotations/instances_val.json"
    content = json.loads(file.read_text())
    first = content["images"][0]["id"]
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] != first]
    file.write_text(json.dumps(content))
    options = {**FINETUNE, "data": str(tmp_path / "data"), "val_split": "val", "output_dir": str(tmp_path / "run")}
    assert rehearse_detector(FinetuneArguments(**options), batch_size=2).seconds > 0
