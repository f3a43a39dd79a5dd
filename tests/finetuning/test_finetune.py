"""Whole fine-tuning runs of a tiny detector: what they leave, how they resume, when they end, what they refuse."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from tqdm import tqdm

import mcl_hf
from mcl_hf import MCLForInstanceSegmentation, MCLForObjectDetection, MCLImageProcessor, MCLModel
from mcl_hf.annotations.detection_data import DetectionData
from mcl_hf.detection import open_detection_data
from mcl_hf.detectors.start_detector import start_side
from mcl_hf.engine.state import read_training_state
from mcl_hf.engine.tracking import Tracking
from mcl_hf.errors import InputError
from mcl_hf.finetuning import evaluation_watch
from mcl_hf.finetuning.data import fingerprint, take_fraction
from mcl_hf.finetuning.finish import is_best_chosen
from mcl_hf.finetuning.step import normalise
from mcl_hf.viz import read_log
from tests.models.tiny import tiny_config
from tests.scenes import add_crowds, write_scenes
from tests.tiny_detector import FEW_REGIONS

TINY = {
    "init": "random",
    "backbone": "resnet10t",
    "detector_options": {
        "backbone_kwargs": {"channels": [8, 16, 24, 32], "stem_width": 8},
        "fpn_channels": 8,
        "box_head_convs": 1,
        "mask_head_convs": 1,
        "box_fc_dim": 16,
        "anchor_sizes": [[8], [16], [32], [64], [128]],
        **FEW_REGIONS,
    },
    "min_size_train": [64, 80],
    "max_size_train": 128,
    "min_size_test": 64,
    "max_size_test": 128,
    "batch_size": 2,
    "max_steps": 4,
    "log_every_steps": 1,
    "save_every_steps": 2,
    "precise_bn_steps": 2,
    "num_workers": 0,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = write_scenes(tmp_path_factory.mktemp("scenes"), 8, width=96, height=72)
    return write_scenes(folder, 4, width=96, height=72, split="val")


@pytest.fixture
def run(scenes, tmp_path):
    torch.set_num_threads(1)

    def finetune(name="run", **options):
        given = {**TINY, "data": str(scenes), "output_dir": str(tmp_path / name), "callbacks": ()}
        return mcl_hf.finetune(**{**given, **options})

    return finetune


def weights(folder):
    return load_file(folder / "model.safetensors")


def assert_equal(first, second):
    first, second = weights(first), weights(second)
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def logged(folder):
    """Log records without what depends on the clock."""
    clock = ("seconds", "images_per_second", "data_wait_share", "peak_memory_gib")
    return [{k: v for k, v in record.items() if k not in clock} for record in read_log(folder / "log.jsonl")]


def test_a_run_leaves_a_detector_figures_and_pictures(run, scenes):
    result = run()
    folder = result.output_dir
    assert result.steps == 4 and 0 <= result.metrics["eval/box/AP"] <= 1 and "eval/mask/AP50" in result.metrics
    model = MCLForInstanceSegmentation.from_pretrained(folder)
    assert model.config.id2label == dict(enumerate(open_detection_data(scenes).category_names))
    figures = json.loads((folder / "evaluation" / "metrics.json").read_text())
    assert figures["box"]["AP"] == result.metrics["eval/box/AP"]
    assert (folder / "evaluation" / "detections.png").exists()
    assert f"# {folder.name}" in (folder / "README.md").read_text()
    assert json.loads((folder / "training_state.json").read_text())["data"]["validation"]["num_images"] > 0
    assert (folder / "checkpoints" / "last").resolve().name == "step-00000004"


@pytest.mark.parametrize("detector", ["faster_rcnn", "retinanet"])
def test_the_other_detectors_train_too(run, detector):
    options = {name: value for name, value in TINY["detector_options"].items() if not name.startswith("mask")}
    if detector == "retinanet":
        options.pop("anchor_sizes")
    result = run(detector=detector, detector_options=options, max_steps=2)
    assert "eval/box/AP" in result.metrics and "eval/mask/AP" not in result.metrics
    assert MCLForObjectDetection.from_pretrained(result.output_dir).config.detector == detector


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(run):
    options = {"eval_every_steps": 2, "max_steps": 6}
    whole = run("whole", **options).output_dir
    cut = run("cut", **options).output_dir
    for name in ("step-00000006", "step-00000004"):  # as if killed after step 3
        shutil.rmtree(cut / "checkpoints" / name)
    (cut / "checkpoints" / "last").unlink()
    (cut / "model.safetensors").unlink()
    assert run("cut", resume="auto", **options).steps == 6
    assert_equal(whole, cut)
    assert_equal(whole / "checkpoints" / "last", cut / "checkpoints" / "last")
    assert logged(whole) == logged(cut)


def test_evaluations_are_logged_though_no_line_was_due(run):
    folder = run(log_every_steps=4, eval_every_steps=3).output_dir
    records = read_log(folder / "log.jsonl")
    assert [record["step"] for record in records if "eval/box/AP" in record] == [3, 4]


def test_an_evaluation_leaves_no_trace_in_training(run):
    with_, without = run("with", eval_every_steps=1).output_dir, run("without").output_dir
    assert_equal(with_ / "checkpoints" / "last", without / "checkpoints" / "last")


def test_a_run_interrupted_after_its_last_step_is_finished_alike(run):
    whole = run("whole").output_dir
    again = run("again").output_dir
    (again / "model.safetensors").unlink()
    result = run("again", resume="auto")
    assert_equal(whole, again)
    assert "eval/box/AP" in result.metrics


def test_early_stopping_keeps_the_best(run, monkeypatch, capsys):
    falling = iter([0.5, 0.4, 0.3, 0.2])

    def figures_of(metrics):
        return {"eval/box/AP": next(falling)}

    monkeypatch.setattr(evaluation_watch, "figures_of", figures_of)
    options = {"eval_every_steps": 1, "early_stopping_patience": 2, "max_steps": 50}
    result = run(**options)
    assert result.steps == 3  # the best after step 1, then two without gain
    assert_equal(result.output_dir, result.output_dir / "best")
    assert is_best_chosen(read_training_state(result.output_dir))
    assert run(resume="auto", **options).steps == 3  # it had ended, and stays so
    assert "finished detector is the best one, of step 1: AP 50.0 %" in "".join(capsys.readouterr())


def test_a_run_that_goes_on_without_its_best_detector_looks_for_another(run, capsys):
    """As where a checkpoint was brought from another machine."""
    options = {"eval_every_steps": 2, "early_stopping_patience": 5}
    folder = run(**options, max_steps=4).output_dir
    shutil.rmtree(folder / "checkpoints" / "step-00000004")
    (folder / "checkpoints" / "last").unlink()
    shutil.rmtree(folder / "best")
    assert run(**options, max_steps=4, resume="auto").steps == 4
    assert read_training_state(folder).best["eval_step"] == 4
    assert_equal(folder, folder / "best")
    assert "with the best detector so far (step 2) is not there" in "".join(capsys.readouterr())


def test_a_best_detector_that_was_written_over_since_the_checkpoint_is_not_taken(run, monkeypatch, capsys):
    found = iter([0.3, 0.4, 0.9, 0.1, 0.2, 0.35])  # steps 1, 2, 3 and 4, and again 3 and 4
    monkeypatch.setattr(evaluation_watch, "figures_of", lambda metrics: {"eval/box/AP": next(found)})
    options = {"eval_every_steps": 1, "early_stopping_patience": 5}
    folder = run(**options).output_dir
    shutil.rmtree(folder / "checkpoints" / "step-00000004")
    (folder / "checkpoints" / "last").unlink()
    run(**options, resume="auto")
    best = read_training_state(folder).best
    assert (best["eval_AP"], best["eval_step"], best["evaluations_since"]) == (0.35, 4, 0)
    assert "with the best detector so far (step 2) is not there" in "".join(capsys.readouterr())


def test_figures_of_other_images_are_no_measure_of_what_is_best(run, tmp_path, monkeypatch, capsys):
    found = iter([0.9, 0.5])
    monkeypatch.setattr(evaluation_watch, "figures_of", lambda metrics: {"eval/box/AP": next(found)})
    options = {"eval_every_steps": 2, "early_stopping_patience": 5}
    folder = run(**options, max_steps=2).output_dir
    others = write_scenes(tmp_path / "others", 3, width=96, height=72, split="val")
    assert run(**options, resume="auto", val_data=str(others)).steps == 4
    assert read_training_state(folder).best["eval_step"] == 4
    assert "AP is measured on other images or annotations than before" in "".join(capsys.readouterr())


def test_starting_from_a_pretraining_run(run, tmp_path):
    from mcl_hf import MCLConfig, MCLModel

    config = MCLConfig(
        backbone="resnet10t", backbone_kwargs=TINY["detector_options"]["backbone_kwargs"], fpn_channels=8,
        region_convs=1, region_size=2, hidden_dim=16, embedding_dim=8, montage_ratios=[1, 2, 4],
        montage_fractions=[1, 0.25, 0.0625], level_weights=[0.5, 0.25, 0.25],
    )  # fmt: skip
    MCLModel(config).save_pretrained(tmp_path / "start")
    options = {key: value for key, value in TINY["detector_options"].items() if key != "backbone_kwargs"}
    result = run(init=str(tmp_path / "start"), backbone=None, detector_options=options, freeze_at=5, max_steps=2)
    before, after = weights(tmp_path / "start"), weights(result.output_dir)
    assert torch.equal(before["backbone.conv1.0.weight"], after["backbone.conv1.0.weight"])  # frozen
    assert not torch.equal(before["fpn.lateral.0.conv.weight"], after["fpn.lateral.0.conv.weight"])


def test_fractions_nest(scenes):
    data = open_detection_data(scenes)
    small, large = take_fraction(data, 0.25, seed=3), take_fraction(data, 0.75, seed=3)
    assert (len(small), len(large)) == (2, 6) and set(small.image_ids) < set(large.image_ids)
    assert small.image_ids != take_fraction(data, 0.25, seed=4).image_ids


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"init": None}, "--init is missing"),
        ({"init": "no/such/folder"}, "no/such/folder"),
        ({"data": "nowhere.json"}, "nowhere.json"),
        ({"detector_options": {"fpn_chanels": 8}}, "unknown field 'fpn_chanels': did you mean 'fpn_channels'"),
        ({"batch_size": 16}, "a step needs 16 different images, but there are 8"),
        ({"eval_backend": "coco"}, "eval_backend must be one of"),
        ({"freeze_at": 9}, "freeze_at must be 0"),
        ({"lr_milestones": ["3/2"]}, "lr_milestones must ascend"),
        ({"early_stopping_patience": 3, "eval_every_steps": 0}, "needs evaluations"),
        ({"output_dir": None}, "output_dir is not set"),
        ({"val_split": "nosplit"}, "nosplit"),
        ({"detector_options": {**TINY["detector_options"], "num_channels": 4}}, "from random takes 4 channels"),
    ],
)
def test_wrong_input_is_one_clear_line_before_training(run, changes, said):
    with pytest.raises(InputError) as caught:
        run(**changes)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_detector_of_one_channel_learns_from_gray(run, tmp_path):
    result = run(detector_options={**TINY["detector_options"], "num_channels": 1}, max_steps=1)
    assert weights(tmp_path / "run")["backbone.conv1.0.weight"].shape[1] == 1 and "eval/box/AP" in result.metrics
    processor, pixels = MCLImageProcessor.from_pretrained(tmp_path / "run"), torch.randint(256, (1, 3, 64, 80)).byte()
    mean, std = (255 * torch.tensor(values).view(-1, 1, 1) for values in (processor.image_mean, processor.image_std))
    learned = normalise(
        SimpleNamespace(mean=mean, scale=std, arguments=SimpleNamespace(channels_last=False)),
        SimpleNamespace(pixels=pixels, image_sizes=[(64, 80)]),
    )
    asked = processor(pixels[0], do_resize=False, return_tensors="pt").pixel_values[..., :64, :80]
    assert learned.shape == (1, 1, 64, 80) and torch.allclose(learned, asked, atol=1e-6)


def test_masks_are_needed_for_mask_rcnn_only(run, tmp_path):
    boxes = write_scenes(tmp_path / "boxes", 4, masks=None)
    with pytest.raises(InputError, match="use --detector faster_rcnn"):
        run(data=str(boxes))


def test_no_validation_data_is_said_and_no_reason_to_stop(run, tmp_path, capsys):
    only_train = write_scenes(tmp_path / "only", 4)
    result = run(data=str(only_train), max_steps=1)
    assert "eval/box/AP" not in result.metrics
    assert "AP will not be measured" in "".join(capsys.readouterr())


def test_validation_data_without_objects_are_seen_before_training(run, scenes, tmp_path, capsys):
    folder = shutil.copytree(scenes, tmp_path / "crowds")
    file = folder / "annotations" / "instances_val.json"
    add_crowds(file, every=1)
    assert "eval/box/AP" not in run(data=str(folder), max_steps=1).metrics
    assert "AP will not be measured: the validation data" in "".join(capsys.readouterr())
    with pytest.raises(InputError, match="have no objects, crowds apart: AP cannot be measured"):
        run("other", val_data=str(file), val_images=str(folder / "val"), max_steps=1)


@pytest.mark.parametrize("log_images", [False, True])
def test_pictures_go_to_trackers_only_when_asked(run, monkeypatch, log_images):
    sent = []
    monkeypatch.setattr(
        Tracking, "log_picture", lambda self, name, pixels, step: sent.append((name, pixels.ndim, step))
    )
    run(max_steps=1, log_images=log_images)
    assert sent == ([("detections", 3, 1), ("precision_recall", 3, 1)] if log_images else [])


def test_validation_images_that_do_not_decode_are_named(run, scenes, tmp_path, capsys):
    folder = shutil.copytree(scenes, tmp_path / "damaged")
    file = sorted((folder / "val").iterdir())[1]
    content = file.read_bytes()
    file.write_bytes(content[:2000])
    with pytest.raises(InputError, match=rf"{file.name}: .*truncated"):  # before anything is trained
        run("truncated", data=str(folder), max_steps=1)
    file.write_bytes(content[:2000] + content[-12:])  # header and end are whole
    assert "eval/box/AP" in run(data=str(folder), max_steps=1).metrics
    said = "".join(capsys.readouterr())
    assert "in 1 of the 4 images to measure on nothing was looked for" in said and f"({file}: " in said


def test_the_fingerprint_knows_masks(scenes, tmp_path):
    folder = shutil.copytree(scenes, tmp_path / "moved")
    assert fingerprint(open_detection_data(folder)) == fingerprint(open_detection_data(scenes))
    file = folder / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["segmentation"][0][0] += 1
    file.write_text(json.dumps(content))
    assert fingerprint(open_detection_data(folder)) != fingerprint(open_detection_data(scenes))


def test_another_detector_cannot_resume(run):
    run()
    with pytest.raises(InputError, match="trained with detector mask_rcnn, now it is faster_rcnn"):
        run(resume="auto", detector="faster_rcnn", max_steps=6)


def test_objects_outside_of_their_images_are_nothing_to_learn_from(run, scenes, tmp_path):
    content = json.loads((scenes / "annotations" / "instances_train.json").read_text())
    for annotation in content["annotations"]:
        annotation["bbox"][0] += 1000
        annotation.pop("segmentation", None)
    outside = tmp_path / "outside.json"
    outside.write_text(json.dumps(content))
    with pytest.raises(InputError, match="no objects to learn from"):
        run(data=str(outside), images=str(scenes / "train"), detector="faster_rcnn", detector_options=None)


def test_a_single_file_is_not_its_own_validation_data(run, scenes, capsys):
    annotations = scenes / "annotations" / "instances_train.json"
    result = run(data=str(annotations), images=str(scenes / "train"), max_steps=1, data_fraction=0.5)
    assert "eval/box/AP" not in result.metrics
    assert "is a single file; name --val-data" in "".join(capsys.readouterr())


def test_auto_says_what_is_used(run, scenes, capsys):
    result = run(auto=True, max_steps=10, warmup_steps=None, base_learning_rate=None, save_every_steps=0)
    chosen, freezing, hours = (line for line in "".join(capsys.readouterr()).splitlines() if "auto: " in line)
    assert "warmup_steps 1," in chosen and "max_steps" not in chosen and "freeze_at 0" in chosen
    assert "nothing is frozen, as the start is random" in freezing and "for 10 steps of" in hours
    recorded = read_training_state(result.output_dir / "checkpoints" / "last").recipe["auto"]
    assert recorded["freezing"] in freezing and recorded["chosen"]["freeze_at"] == 0


def test_auto_takes_what_the_annotations_and_the_start_allow(run, scenes, tmp_path, monkeypatch, capsys):
    """Boxes alone: Faster R-CNN. A start of small images: nothing frozen, also where the start is gone on resume."""
    config = tiny_config(region_size=4)
    MCLModel(config).save_pretrained(tmp_path / "start")
    assert start_side(str(tmp_path / "start")) == 128 and start_side("timm:resnet50") == 224
    monkeypatch.setattr(DetectionData, "has_masks", property(lambda data: False))
    options = {"init": str(tmp_path / "start"), "backbone": None, "detector_options": FEW_REGIONS, "auto": True}
    first = run("auto", max_steps=2, **options)
    shutil.rmtree(tmp_path / "start")
    again = run("auto", max_steps=3, resume="auto", **options)
    for folder, steps in ((first.output_dir / "checkpoints" / "step-00000002", 2), (again.output_dir, 3)):
        state = read_training_state(folder)
        used = state.arguments
        assert (state.step, used["detector"], used["freeze_at"], used["frozen_bn"]) == (steps, "faster_rcnn", 0, False)
    assert state.changes == [{"from_step": 2, "options": {"max_steps": {"before": 2, "now": 3}}}]
    assert "images of 128 px" in "".join(capsys.readouterr())


def test_what_is_done_between_steps_shows_progress(run, monkeypatch):
    """A bar that stands at 100 % looks hung."""
    bars = []

    def progress(self, total, what, unit):
        bars.append(tqdm(total=total, desc=what, unit=unit, disable=False))
        return bars[-1]

    monkeypatch.setattr(Tracking, "progress", progress)
    run(precise_bn_steps=2)
    assert [(bar.desc, bar.n, bar.total) for bar in bars] == [("batch-norm statistics", 2, 2), ("evaluation", 4, 4)]


def test_another_start_on_resume_changes_nothing_and_is_said(run, capsys):
    whole = run("whole", auto=True, freeze_at=None, frozen_bn=None)
    part = run("part", auto=True, freeze_at=None, frozen_bn=None, max_steps=2)
    again = run("part", auto=True, freeze_at=None, frozen_bn=None, init="timm:resnet10t", resume="auto")
    assert again.steps == whole.steps > part.steps
    assert "has no effect" in "".join(capsys.readouterr())


def test_statistics_are_made_anew_by_workers_and_are_those_of_none(run, monkeypatch):
    asked = []
    make = evaluation_watch.make_statistics

    def noted(a_run, loader):
        asked.append(loader._loader.num_workers)
        return make(a_run, loader)

    monkeypatch.setattr(evaluation_watch, "make_statistics", noted)
    alone, helped = (run(f"workers{number}", num_workers=number, max_steps=2) for number in (0, 1))
    assert asked == [0, 1]
    assert_equal(alone.output_dir, helped.output_dir)


@pytest.mark.parametrize("options", [{}, {"detector": "retinanet", "freeze_at": 2, "frozen_bn": True}])
def test_activation_checkpointing_changes_memory_and_nothing_else(run, options):
    plain, less = run("plain", **options), run("less", activation_checkpointing=True, **options)
    assert_equal(plain.output_dir, less.output_dir)
    assert logged(plain.output_dir) == logged(less.output_dir)
