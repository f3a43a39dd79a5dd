"""Comparisons with real jobs: what is refused before the first one, a whole one, and one that is killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

import mcl_hf
from mcl_hf import MCLBackbone, MCLConfig, MCLModel
from mcl_hf.cli import main
from mcl_hf.comparison import compare as comparison
from mcl_hf.comparison.answer import read_answer
from mcl_hf.comparison.flops import counting_flops
from mcl_hf.comparison.jobs import Job
from mcl_hf.comparison.labelled import open_labelled
from mcl_hf.comparison.plan import ComparePlan, load_plan
from mcl_hf.comparison.setting import open_setting
from mcl_hf.comparison.starts import content_of_start, read_starts, reference_network
from mcl_hf.errors import InputError
from mcl_hf.finetuning.arguments import load_finetune_arguments
from tests.detectors.test_transformers_detectors import OPTIONS
from tests.finetuning.test_finetune import TINY
from tests.scenes import write_scenes

ROOT = Path(__file__).parents[2]
PRETRAIN = {
    "backbone": "resnet10t", "backbone_kwargs": TINY["detector_options"]["backbone_kwargs"], "fpn_channels": 8,
    "region_convs": 1, "region_size": 2, "hidden_dim": 16, "embedding_dim": 8, "montage_ratios": [1, 2, 4],
    "montage_fractions": [1, 0.25, 0.0625], "level_weights": [0.5, 0.25, 0.25], "batch_size": 4, "num_workers": 0,
    "device": "cpu", "log_every_steps": 2, "probe_every_steps": -1, "save_every_steps": 2,
}  # fmt: skip
_OF_THE_MODEL = (
    "backbone", "backbone_kwargs", "fpn_channels", "region_convs", "region_size", "hidden_dim", "embedding_dim",
)  # fmt: skip
_OF_THE_NETWORK = ("backbone_kwargs", "fpn_channels", "box_head_convs", "mask_head_convs")
FINETUNE = {
    **{name: value for name, value in TINY.items() if name not in ("init", "backbone", "max_steps")},
    "detector": "faster_rcnn",
    "detector_options": {
        name: value for name, value in TINY["detector_options"].items() if name not in _OF_THE_NETWORK
    },
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    for split, count in (("train", 10), ("val", 4), ("test", 5)):
        write_scenes(folder, count, width=96, height=72, split=split)
    return folder


@pytest.fixture
def plan(scenes, tmp_path):
    return {
        "data": str(scenes), "starts": ["random", "mcl"], "images": ["4"], "seeds": 1, "figure": "AP50",
        "pretrain_recipe": "none", "pretrain": PRETRAIN, "visits": 16, "recipe": "none", "finetune": FINETUNE,
        "steps": 4, "learning_rates": [0.04], "output_dir": str(tmp_path / "answer"),
    }  # fmt: skip


@pytest.fixture
def done_at_once(monkeypatch):
    """Jobs whose results are there at once, with empty weights."""

    def run_jobs(work, content, *_):
        for job in work.remaining:
            told = content(job)
            result = {**told["record"], "figures": {"box/AP50": 0.5, "loss": 1.0}, "process_seconds": 1.0}
            result |= {"machine": {"device": "cpu"}, "images": 4, "visits": 16, "flop": 1.0, "seconds": 1.0}
            work.results[job] = result | {"images_per_second": 1.0, "data_wait_share": 0.0}
            Path(told["result"]).write_text(json.dumps(work.results[job]))
            Path(told["folder"]).mkdir(exist_ok=True)
            (Path(told["folder"]) / "model.safetensors").touch()

    monkeypatch.setattr(comparison, "run_jobs", run_jobs)


def figures(folder):
    return {
        file.name: json.loads(file.read_text())["figures"] for file in sorted((Path(folder) / "results").glob("*.json"))
    }


def test_a_whole_comparison_is_run_once_and_keeps_its_plan(plan, capsys, tmp_path):
    plan |= {"scales": [2.0]}
    torch.manual_seed(7)
    expected = torch.rand(2)
    torch.manual_seed(7)
    answer = mcl_hf.compare(**plan)
    assert torch.equal(torch.rand(2), expected)  # of the caller
    folder = tmp_path / "answer"
    assert sorted(figures(folder)) == [
        "pretrain-mcl-s0.json",
        "test-mcl-i4-t4-s0-k0.json",
        "test-random-i4-t4-s0-k0.json",
    ]
    text = (folder / "results" / "test-mcl-i4-t4-s0-k0.json").read_text()
    assert str(plan["data"]) not in text and '"shown": {\n  "' in text  # which may be published
    result = json.loads(text)
    assert {"box/AP", "box/AP50", "box/APs", "box/AR100"} <= set(result["figures"])
    assert result["command"].startswith("mcl-hf compare") and result["machine"]["packages"]["torch"]
    assert set(result["scales"]) == {"2"} and result["images"] == 4
    assert result["options"]["seed"] == 0 and result["options"]["base_learning_rate"] == 0.04
    text = (folder / "report.md").read_text()
    assert answer.sentence in text and "16 (equal flops)" in text and (folder / "detections.png").is_file()
    assert not list((folder / "work").glob("test-*/*"))  # weights of detectors are dropped
    capsys.readouterr()
    again = mcl_hf.compare(**plan)
    assert "3 done before" in capsys.readouterr().out and again.sentence == answer.sentence
    mcl_hf.compare(**plan, dry_run=True)
    assert "0 of 3 jobs are left" in capsys.readouterr().out
    assert read_answer(folder).to_json() == answer.to_json()
    with pytest.raises(InputError, match="another seeds: a plan that changes after looking"):
        mcl_hf.compare(**plan | {"seeds": 2})
    assert len(figures(folder)) == 3
    new = {"new_plan": True, "only": "pretrain-mcl-s0"}
    again = mcl_hf.compare(**plan | new | {"seeds": 2})
    assert len(figures(folder / "before-1")) == 3 and list(figures(folder)) == ["pretrain-mcl-s0.json"]
    file = folder / "before-1" / "results" / "test-mcl-i4-t4-s0-k0.json"
    file.write_text(json.dumps(result | {"digest": "of other data"}))
    plan["output_dir"] = str(folder / "before-1")
    with pytest.raises(InputError, match="is of other options, data or starts"):
        mcl_hf.compare(**plan)
    mcl_hf.compare(**plan | new)
    assert (folder / "before-1" / "plan.yaml").read_text() == (folder / "before-1/before-1/plan.yaml").read_text()
    assert list(figures(folder / "before-1")) == ["pretrain-mcl-s0.json"]


def test_a_version_with_new_options_goes_on_with_the_results_of_before(plan, capsys, tmp_path, monkeypatch):
    with monkeypatch.context() as before:
        before.setattr(
            comparison, "_WITHOUT_INFLUENCE", comparison._WITHOUT_INFLUENCE | {"backbone_lr_scale", "augment"}
        )
        mcl_hf.compare(**plan)
    results = figures(tmp_path / "answer")
    shutil.rmtree(tmp_path / "answer" / "work" / "pretrain-mcl-s0")
    file = tmp_path / "answer" / "results" / "test-mcl-i4-t4-s0-k0.json"
    file.unlink()
    for told in ("1 done before", "3 done before"):  # the start is made again, and is what the other results are of
        mcl_hf.compare(**plan)
        assert told in capsys.readouterr().out and figures(tmp_path / "answer") == results
    assert "augment" in json.loads(file.read_text())["options"]
    with pytest.raises(InputError, match="is of other options, data or starts"):
        file.unlink()
        (tmp_path / "answer" / "plan.yaml").unlink()
        mcl_hf.compare(**plan | {"finetune": plan["finetune"] | {"augment": "light"}})


@pytest.mark.parametrize("gone", ["pretrain-mcl-s0", "tune-mcl-i4-t4-lr0.04-s1000-k0", "*-s1000*"])
def test_a_result_that_was_deleted_is_made_again_and_others_stay(plan, capsys, tmp_path, done_at_once, gone):
    plan |= {"learning_rates": [0.02, 0.04]}
    mcl_hf.compare(**plan)
    results = figures(tmp_path / "answer")
    deleted = list((tmp_path / "answer" / "results").glob(f"{gone}.json"))
    for file in deleted:
        file.unlink()
    capsys.readouterr()
    mcl_hf.compare(**plan)
    assert f"; {8 - len(deleted)} done before" in capsys.readouterr().out and figures(tmp_path / "answer") == results


def test_a_version_with_new_options_goes_on_with_a_job_that_was_interrupted(plan, tmp_path, monkeypatch):
    folder = tmp_path / "answer"
    job = Job("pretrain", "mcl", 0)
    (folder / "work").mkdir(parents=True)
    setting = open_setting(load_plan(**plan), folder / "work")
    with monkeypatch.context() as before:
        before.setattr(comparison, "_WITHOUT_INFLUENCE", comparison._WITHOUT_INFLUENCE | {"tile"})
        digest = comparison._Comparison(folder, setting)._content(job)["record"]["digest"]
    options = vars(setting.pretrainings["mcl"].arguments)
    interrupted = SimpleNamespace(arguments={name: None for name in options if name != "tile"})
    monkeypatch.setattr(comparison, "newest_whole_checkpoint", lambda folder: (folder, []))
    monkeypatch.setattr(comparison, "read_training_state", lambda checkpoint: interrupted)
    record = comparison._Comparison(folder, setting)._content(job)["record"]
    assert record["digest"] == digest and "tile" not in record["options"]


def test_equal_starts_learn_from_the_same_images_and_end_alike(plan, tmp_path):
    plan |= {"starts": {"one": {"init": "random"}, "other": {"init": "random"}}, "output_dir": str(tmp_path / "equal")}
    file = tmp_path / "equal" / "plan.yaml"
    file.parent.mkdir()
    file.write_text(text := f"# why it is asked\n{yaml.safe_dump(plan)}")
    mcl_hf.compare(str(file))
    one, other = figures(tmp_path / "equal").values()
    assert one == other
    assert file.read_text() == text  # a plan that is the answer's own stays as its author wrote it


@pytest.mark.slow
def test_a_comparison_that_is_killed_goes_on_to_the_same_figures(plan, tmp_path):
    plan |= {"steps": 12, "visits": 40, "finetune": {**FINETUNE, "save_every_steps": 2}}
    whole = dict(plan, output_dir=str(tmp_path / "whole"))
    mcl_hf.compare(**whole)
    file = tmp_path / "plan.yaml"
    file.write_text(yaml.safe_dump(plan))
    command = [sys.executable, "-m", "mcl_hf.cli", "compare", str(file)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    checkpoints = tmp_path / "answer" / "work"
    for number in (signal.SIGKILL, signal.SIGTERM):
        process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
        deadline = time.monotonic() + 240
        before = len(list(checkpoints.glob("*/checkpoints/step-*")))
        while process.poll() is None and time.monotonic() < deadline:
            if len(list(checkpoints.glob("*/checkpoints/step-*"))) > before:
                break
            time.sleep(0.05)
        process.send_signal(number)
        process.wait(timeout=120)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    assert figures(tmp_path / "answer") == figures(tmp_path / "whole")


@pytest.mark.parametrize(
    ("changes", "decisive"),
    [
        ({"starts": ["random"]}, "two or more"),
        ({"starts": ["random", "random"]}, "twice"),
        ({"starts": ["random", "runs/own", "runs/own/"]}, "names runs/own twice"),
        ({"starts": ["random", "no/folder/here"]}, "start no/folder/here"),
        ({"starts": {"a": {"init": "random", "of": "mcl"}, "b": {}}}, "give one"),
        ({"starts": {"a": {"inti": "random"}, "b": {}}}, "did you mean 'init'"),
        ({"starts": {"random": {}, "a": {"of": "b"}}}, "no pre-training of this comparison"),
        ({"starts": {"random": {}, "mcl": {"pretrain": {"max_steps": 3}}}}, "comparison's to set"),
        ({"starts": {"random": {}, "mcl": {"pretrain": 3}}}, "start mcl: pretrain must be a mapping, got 3"),
        ({"starts": {"random": {}, "mcl": {"pretrain": {}, "visits": "many"}}}, "start mcl: visits must be a whole"),
        ({"starts": {"random": {}, "mcl": {"pretrain": {}, "visits": -5}}}, "start mcl: visits must be at least 2"),
        ({"starts": {"random": {}, "mcl": {"pretrain": {}, "parts": 5}}}, "start mcl: parts must be a list"),
        ({"starts": {"random": {}, "a": {"init": "random", "finetune": [1]}}}, "start a: finetune must be a mapping"),
        ({"starts": {"random": {}, "a": {5: "random"}}}, "unknown field '5'"),
        (
            {"starts": {"random": {}, "a": {"init": "random", "finetune": {"seed": 3}}}},
            "start a: finetune: seed is the",
        ),
        ({"images": ["11"]}, "10 labelled images"),
        ({"finetune": {**FINETUNE, "max_steps": 3}}, "comparison's to set"),
        ({"finetune": {**FINETUNE, "batch_size": 8}}, "takes 8"),
        ({"finetune": {**FINETUNE, "eval_backend": "fast"}}, "eval_backend"),
        ({"test_split": "nothing"}, "test images"),
        ({"primary": [["mcl", "imagenet", 4]]}, "primary"),
        ({"compute_matched": True, "starts": ["mcl", "image"]}, "compute_matched"),
        ({"label_group": "board"}, "board"),
        ({"data": None}, "data is missing"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_the_first_job(plan, changes, decisive, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=decisive) as caught:
        mcl_hf.compare(**plan | changes)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "answer").exists()


def test_test_images_among_the_others_are_refused(plan, scenes, tmp_path):
    shutil.copytree(scenes / "train", tmp_path / "mine")
    file = next(iter(sorted((scenes / "test").glob("*.png"))))
    shutil.copy(file, tmp_path / "mine" / "stolen.png")
    with pytest.raises(InputError, match=r"1 test image\(s\) are also among the unlabelled images"):
        mcl_hf.compare(**plan | {"unlabelled": [str(tmp_path / "mine")]})


def test_groups_of_training_images_in_another_split_are_refused(plan, scenes, tmp_path):
    folder = Path(shutil.copytree(scenes, tmp_path / "data"))
    for split, first in (("train", 0), ("val", 10), ("test", 9)):
        file = folder / "annotations" / f"instances_{split}.json"
        content = json.loads(file.read_text())
        for number, image in enumerate(content["images"], first):
            image["board"] = f"b{number}" if split == "train" or number < 12 else None
        file.write_text(json.dumps(content))
    plan = load_plan(**plan | {"data": str(folder), "label_group": "board"})
    assert open_labelled(plan, ["val"]).most == 10
    with pytest.raises(InputError, match=r"test images: .* shares 1 group\(s\) of board .*, such as b9: part the"):
        open_labelled(plan, ["test"])
    (folder / "test.csv").write_text("filename,class,xmin,ymin,xmax,ymax\ntest/0001.png,ellipse,1,1,20,20\n")
    plan.test_data = str(folder / "test.csv")  # whose groups nothing tells
    assert len(open_labelled(plan, ["test"]).test) == 1


def test_what_is_pre_trained_on_follows_data_that_are_moved_or_changed(plan, scenes, tmp_path, capsys, done_at_once):
    data, moved = Path(shutil.copytree(scenes, tmp_path / "data")), tmp_path / "elsewhere"
    mcl_hf.compare(**plan | {"data": str(data)})
    data.rename(moved)
    mcl_hf.compare(**plan | {"data": str(moved)})
    assert "3 done before" in capsys.readouterr().out
    work = tmp_path / "answer" / "work"
    setting = open_setting(load_plan(**plan | {"data": str(moved), "split": "val", "test_split": "train"}), work)
    names = [Path(setting.source.sample(index).name).resolve() for index in range(len(setting.source))]
    assert {name.parent.name for name in names} == {"val"}  # none of the test's, as it is now


def test_every_subset_holds_as_many_images_as_a_step_takes(plan, scenes, tmp_path):
    folder = Path(shutil.copytree(scenes, tmp_path / "data"))
    file = folder / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    for number, image in enumerate(content["images"]):
        image["board"] = max(0, number - 6)
    file.write_text(json.dumps(content))
    plan = load_plan(**plan | {"data": str(folder), "label_group": "board", "images": ["1"], "seeds": 9})
    data = open_labelled(plan, [])
    plan.first_seed = next(seed for seed in range(99) if len(data.subset("1", seed, 0)) > 1)
    with pytest.raises(InputError, match=r"images 1: 1 image\(s\) with objects, and a step takes 2"):
        open_setting(plan, tmp_path)


def test_a_terminal_that_is_closed_ends_no_comparison(plan, monkeypatch):
    gone = SimpleNamespace(write=lambda text: os.write(-1, b""), flush=lambda: None, isatty=lambda: False)
    monkeypatch.setattr(sys, "stdout", gone)
    assert mcl_hf.compare(**plan, dry_run=True).results == {}


def test_a_dry_run_lists_and_leaves_nothing(plan, capsys, tmp_path):
    many = {"seeds": 5, "subsets": 5, "images": ["2", "4"], "learning_rates": [0.02, 0.04]}
    mcl_hf.compare(**plan | many, dry_run=True)
    out = capsys.readouterr().out
    assert "pretrain: 6 jobs" in out and "tune: 40 jobs" in out and "test: 100 jobs" in out and "MiB of disk" in out
    assert not (tmp_path / "answer").exists()


@pytest.mark.parametrize("file", sorted((ROOT / "evaluation").glob("*/[cpv]*.yaml")), ids=lambda file: file.parent.name)
def test_the_plans_of_the_evaluation_can_be_read(file):
    plan = load_plan(str(file))
    starts, pretrainings = read_starts(plan)
    assert {"random", "mcl"} <= {start.name for start in starts} or "visits" in file.name
    assert all(own.config.image_size == 64 for own in pretrainings.values())
    load_finetune_arguments(plan.recipe, **plan.finetune, max_steps=1)


def test_starts_that_are_there_follow_the_network_in_what_they_leave_open(plan, tmp_path):
    network = {key: PRETRAIN[key] for key in ("backbone", "backbone_kwargs")}
    MCLBackbone(MCLConfig(**network)).save_pretrained(tmp_path / "backbone")  # says 256 channels, and holds no pyramid
    small = {"hidden_dim": 16, "embedding_dim": 8, "region_convs": 1}
    MCLModel(MCLConfig(**network, **small, fpn_channels=16)).save_pretrained(tmp_path / "wide")
    starts = {"random": None, "mcl": None, "imagenet": {"init": str(tmp_path / "backbone")}}
    other = {"wide": {"init": str(tmp_path / "wide")}}
    (tmp_path / "work").mkdir()
    setting = open_setting(load_plan(**plan | {"starts": starts | other}), tmp_path / "work")
    told = [line for line in setting.warnings if "another network" in line]
    assert told == ["wide is another network, not only another start: fpn_channels 16 in place of 8"]
    setting = open_setting(load_plan(**plan | {"starts": {"random": None, "imagenet": starts["imagenet"]}}), tmp_path)
    assert setting.network["backbone"] == "resnet10t" and "fpn_channels" not in setting.network


def test_a_start_that_was_written_anew_is_read_anew(plan, tmp_path):
    small = {key: PRETRAIN[key] for key in ("backbone", "backbone_kwargs", "hidden_dim")}
    for channels in (8, 16):
        MCLModel(MCLConfig(**small, fpn_channels=channels)).save_pretrained(tmp_path / "own")
        starts = read_starts(load_plan(**plan | {"starts": ["random", str(tmp_path / "own")]}))
        assert reference_network(*starts)["fpn_channels"] == channels


def test_results_of_a_start_that_was_trained_anew_are_of_another(plan, tmp_path, capsys, done_at_once):
    small = {key: PRETRAIN[key] for key in ("backbone", "backbone_kwargs", "fpn_channels", "hidden_dim")}
    start = MCLModel(MCLConfig(**small, embedding_dim=8, region_convs=1))
    start.save_pretrained(tmp_path / "own")
    plan |= {"starts": {"random": None, "own": {"init": str(tmp_path / "own")}}}
    mcl_hf.compare(**plan)
    mcl_hf.compare(**plan)
    assert "2 jobs: 2 test; 2 done before" in capsys.readouterr().out
    assert content_of_start(f"timm:local-dir:{tmp_path / 'own'}") == content_of_start(str(tmp_path / "own"))
    torch.nn.init.ones_(next(start.backbone.parameters()))
    start.save_pretrained(tmp_path / "own")
    told = r"test-own-i4-t4-s0-k0.json is of other options, data or starts \(another start\)"
    with pytest.raises(InputError, match=told):
        mcl_hf.compare(**plan)


def test_a_pre_training_from_a_start_that_was_trained_anew_is_another(plan, tmp_path, capsys, done_at_once):
    start = MCLModel(MCLConfig(**{name: PRETRAIN[name] for name in _OF_THE_MODEL}))
    start.save_pretrained(tmp_path / "own")
    plan |= {"pretrain": PRETRAIN | {"init": str(tmp_path / "own")}}
    mcl_hf.compare(**plan)
    file = tmp_path / "answer" / "results" / "pretrain-mcl-s0.json"
    result = json.loads(file.read_text())
    mcl_hf.compare(**plan)
    assert "3 done before" in capsys.readouterr().out and str(tmp_path) not in json.dumps(result)
    torch.nn.init.ones_(next(start.backbone.parameters()))
    start.save_pretrained(tmp_path / "own")
    with pytest.raises(InputError, match=r"pretrain-mcl-s0.json is of .* \(another start\)"):
        mcl_hf.compare(**plan)


def test_a_folder_called_random_is_no_start(plan, tmp_path, monkeypatch, done_at_once):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "random").mkdir()
    mcl_hf.compare(**plan)
    assert json.loads((tmp_path / "answer/results/test-random-i4-t4-s0-k0.json").read_text())["start"] == "random"


def test_results_of_versions_that_knew_a_start_by_its_name_are_taken_over(
    plan, tmp_path, capsys, done_at_once, monkeypatch
):
    small = {key: PRETRAIN[key] for key in ("backbone", "backbone_kwargs", "fpn_channels", "hidden_dim")}
    MCLModel(MCLConfig(**small, embedding_dim=8, region_convs=1)).save_pretrained(tmp_path / "own")
    plan |= {"starts": {"random": None, "own": {"init": str(tmp_path / "own")}}}
    with monkeypatch.context() as before:
        before.setattr(comparison, "content_of_start", str)
        mcl_hf.compare(**plan)
    for file in (tmp_path / "answer" / "results").iterdir():
        result = json.loads(file.read_text())
        del result["start"]
        file.write_text(json.dumps(result))
    mcl_hf.compare(**plan)
    assert "2 done before" in capsys.readouterr().out


def test_a_start_may_be_a_folder_below_another_with_a_slash_at_its_end(plan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = {key: PRETRAIN[key] for key in ("backbone", "backbone_kwargs", "fpn_channels", "hidden_dim")}
    MCLModel(MCLConfig(**small, embedding_dim=8, region_convs=1)).save_pretrained("runs/own")
    answer = mcl_hf.compare(**plan | {"starts": ["random", "runs/own/"], "steps": 1}, only="test-runs*")
    assert list(figures(tmp_path / "answer")) == ["test-runs%2Fown-i4-t1-s0-k0.json"]
    assert answer.starts == ["random", "runs/own"]


@pytest.mark.parametrize("kind", [torch.nn.Conv2d, torch.nn.ConvTranspose2d])
@pytest.mark.parametrize("groups", [1, 4, 32])
def test_a_backward_pass_takes_twice_the_forward_pass(kind, groups):
    """Of a convolution in groups torch's own count is too high; of a dense one it is the same."""
    layer, images = kind(32, 64, 3, stride=2, groups=groups), torch.empty(2, 32, 16, 16, requires_grad=True)
    with counting_flops() as forward:
        made = layer(images)
    with counting_flops() as both:
        layer(images).sum().backward()
    assert both.get_total_flops() == 3 * forward.get_total_flops()
    places = (images if kind is torch.nn.ConvTranspose2d else made)[0, 0].numel()
    assert forward.get_total_flops() == 2 * 2 * places * layer.weight.numel()


def test_a_pre_training_that_starts_from_weights_has_their_network(plan, tmp_path):
    network = {"backbone": "resnet14t", "backbone_kwargs": PRETRAIN["backbone_kwargs"], "image_mean": [0.5] * 3}
    MCLBackbone(MCLConfig(**network)).save_pretrained(tmp_path / "start")
    own = {name: value for name, value in PRETRAIN.items() if name not in ("backbone", "backbone_kwargs")}
    starts = {"there": {"init": str(tmp_path / "start")}, "on-top": {"pretrain": {"init": str(tmp_path / "start")}}}
    setting = open_setting(load_plan(**plan | {"pretrain": own, "starts": starts}), tmp_path)
    found = setting.pretrainings["on-top"]
    assert found.config.backbone == "resnet14t" and found.config.image_mean == [0.5] * 3
    same = load_plan(**plan | {"pretrain": own | network, "starts": ["random", "mcl"]})
    assert found.visit_flop == read_starts(same)[1]["mcl"].visit_flop
    assert not [line for line in setting.warnings if "another network" in line]


@pytest.mark.parametrize("detector", ["rt_detr_v2", "mask2former"])
def test_detectors_of_transformers_are_compared_on_the_backbone_of_the_pre_training(plan, tmp_path, detector):
    sizes = {"min_size_train": [64, 96], "max_size_train": 96, "min_size_test": 96, "max_size_test": 96}
    own = {"detector": detector, "detector_options": OPTIONS[detector], "batch_size": 2, "device": "cpu", **sizes}
    setting = open_setting(load_plan(**plan | {"finetune": own}), tmp_path)
    random, mcl = (setting.arguments(start, 4, 1e-4) for start in setting.starts)
    assert random.backbone == "resnet10t" and mcl.detector == detector
    assert random.detector_options["backbone_kwargs"] == PRETRAIN["backbone_kwargs"]
    assert not [line for line in setting.warnings if "another network" in line]


def test_seconds_are_made_equal_once_all_are_timed(plan, tmp_path):
    setting = open_setting(load_plan(**plan | {"starts": ["mcl", "image"], "equal": "seconds"}), tmp_path)
    assert setting.about({})["visits"] == setting.about({"mcl": 0.2})["visits"] == {}
    assert setting.about({"mcl": 0.2, "image": 0.1})["visits"] == {"mcl": 16, "image": 32}


def test_results_name_the_commit_of_the_package_alone(tmp_path, monkeypatch):
    git = partial(subprocess.run, cwd=tmp_path, check=True, capture_output=True, text=True)
    for words in ("init -q", "config user.email a@b.c", "config user.name a"):
        git(["git", *words.split()])
    own = tmp_path / "mcl_hf" / "comparison" / "compare.py"
    own.parent.mkdir(parents=True)
    own.touch()
    (tmp_path / "README").touch()
    monkeypatch.setattr(comparison, "__file__", str(own))
    git(["git", "add", "README"])
    git(["git", "commit", "-qm", "somebody's own"])
    (tmp_path / ".git" / "info" / "exclude").write_text("mcl_hf\n")
    assert comparison._commit_of_this() is None  # installed inside of a repository that is another's
    git(["git", "add", "-f", "mcl_hf"])
    git(["git", "commit", "-qm", "the package"])
    assert comparison._commit_of_this() == git(["git", "rev-parse", "HEAD"]).stdout.strip()
    own.write_text("changed")
    assert comparison._commit_of_this() is None


def test_the_command_answers_in_one_line(plan, capsys, tmp_path):
    file = tmp_path / "plan.yaml"
    file.write_text(yaml.safe_dump(plan | {"images": ["99"]}))
    assert main(["compare", str(file)]) == 2
    told = capsys.readouterr().err.splitlines()
    assert told[-1].startswith("mcl-hf: error: images 99")
    assert main(["compare", str(file), "--images", "4", "--only", "test-*", "--only", "nothing-*"]) == 2
    assert "--only nothing-* fits none of" in capsys.readouterr().err
    assert main(["compare", str(file), "--images", "4", "--work-dir", str(file / "work")]) == 2
    assert f"{file / 'work'} cannot be made" in capsys.readouterr().err
    assert not (tmp_path / "answer").exists()


@pytest.mark.parametrize("bf16", [False, True])
def test_all_jobs_are_in_the_precision_that_auto_means_here(plan, tmp_path, monkeypatch, bf16):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: bf16)
    plan |= {"pretrain": PRETRAIN | {"precision": "auto"}, "finetune": FINETUNE | {"precision": "auto"}}
    setting = open_setting(load_plan(**plan), tmp_path)
    meant = "bf16" if bf16 else "fp32"
    assert {setting.base.precision, setting.pretrainings["mcl"].arguments.precision} == {meant}
    assert meant in setting.about({})["finetune"] and not [line for line in setting.warnings if "bf16" in line]
    plan["finetune"] = FINETUNE | {"precision": "bf16"}
    told = [line for line in open_setting(load_plan(**plan), tmp_path).warnings if "no bf16 instructions" in line]
    assert len(told) == (not bf16)


def test_what_auto_means_on_another_machine_is_named(plan, capsys, tmp_path, monkeypatch, done_at_once):
    auto = plan | {"finetune": FINETUNE | {"precision": "auto"}, "pretrain": PRETRAIN | {"precision": "auto"}}
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    mcl_hf.compare(**auto)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    with pytest.raises(InputError, match=r"pretrain-mcl-s0.json is of .* \(precision fp32, now bf16\), and the test"):
        mcl_hf.compare(**auto)
    written_out = {"finetune": FINETUNE | {"precision": "fp32"}, "pretrain": PRETRAIN | {"precision": "fp32"}}
    mcl_hf.compare(**plan | written_out)
    assert "; 3 done before" in capsys.readouterr().out
    for file in (tmp_path / "answer" / "results").glob("test-*.json"):
        file.unlink()
    mcl_hf.compare(**auto)
    assert "1 results are of an earlier plan (precision fp32, now bf16) and are made anew" in capsys.readouterr().out


@pytest.mark.parametrize("group", [None, "scene"])
def test_val_fraction_holds_out_validation_and_where_there_is_none_the_test(tmp_path, group):
    folder = write_scenes(tmp_path / "data", 20, split="val", masks=None)
    file = folder / "annotations" / "instances_val.json"
    content = json.loads(file.read_text())
    for number, image in enumerate(content["images"]):
        image["scene"] = f"s{number // 4}"
    (folder / "all.json").write_text(json.dumps(content))
    file.unlink()
    (folder / "val").rename(folder / "images")

    def opened(**fields):
        plan = ComparePlan(data=str(folder), val_fraction=0.2, label_group=group, **fields)
        return open_labelled(plan, ["val", "test"])

    data = opened()
    parts = [set(part.image_ids) for part in (data.train, data.val, data.test)]
    assert [len(part) for part in parts] == [12, 4, 4] and len(set.union(*parts)) == 20
    assert [line.partition(" ")[0] for line in data.held_out] == ["test", "val"]
    assert "4 of 20 images, held out" in data.held_out[0]
    assert opened().test.image_ids == data.test.image_ids
    if group is not None:
        assert len({image["scene"] for image in content["images"] if image["id"] in parts[2]}) == 1
        assert data.most == 3
    write_scenes(tmp_path / "other", 5, split="test", masks=None)
    own = opened(test_data=str(tmp_path / "other"))
    assert len(own.test) == 5 and len(own.val) == 4 and len(own.train) == 16
    with pytest.raises(InputError, match="test images: .* --val-fraction 0.2 holds out"):
        open_labelled(ComparePlan(data=str(folder)), ["test"])
    with pytest.raises(InputError, match="not both"):
        opened(val_split="val")
