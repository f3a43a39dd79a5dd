"""Comparisons of starts: what is refused before the first job, the order of jobs, whole comparisons, killed ones."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from filelock import FileLock

import mcl_hf
from mcl_hf import MCLConfig, MCLModel
from mcl_hf.cli import main
from mcl_hf.detection import compare
from mcl_hf.detection.compare import compare_starts, seconds_left
from mcl_hf.detection.compare_job import JobResult, drop_rest, read_result
from mcl_hf.detection.compare_plan import make_plan, start_folder
from mcl_hf.detection.finetune_arguments import FinetuneArguments
from mcl_hf.errors import InputError
from mcl_hf.viz import read_log

from .scenes import write_scenes
from .test_finetune import TINY

ROOT = Path(__file__).parents[2]
OPTIONS = {name: value for name, value in TINY.items() if name not in ("init", "backbone")}
HEADS = {
    name: value
    for name, value in TINY["detector_options"].items()
    if name not in ("backbone_kwargs", "fpn_channels", "box_head_convs")
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = write_scenes(tmp_path_factory.mktemp("scenes"), 16, width=96, height=72)
    return write_scenes(folder, 6, width=96, height=72, split="val")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A pre-training checkpoint of a tiny network."""
    config = MCLConfig(
        backbone="resnet10t", backbone_kwargs=TINY["detector_options"]["backbone_kwargs"], fpn_channels=8,
        region_convs=1, region_size=2, hidden_dim=16, embedding_dim=8, montage_ratios=[1, 2, 4],
        montage_fractions=[1, 0.25, 0.0625], level_weights=[0.5, 0.25, 0.25],
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("pretrained") / "my-run"
    torch.manual_seed(0)
    MCLModel(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def arguments(scenes, tmp_path):
    def make(**changes):
        values = {**OPTIONS, "detector_options": HEADS, "data": str(scenes), "output_dir": str(tmp_path / "compared")}
        return FinetuneArguments(**{**values, **changes})

    return make


# --- before the first job ---------------------------------------------------------------------------------------------


def test_one_seed_of_everything_comes_first_and_small_fractions_before_large_ones(arguments, pretrained):
    plan = make_plan(arguments(seed=5), ["random", pretrained], [1.0, 0.5], 2)
    order = [(job.seed, job.fraction, job.start) for job in plan.jobs]
    assert order == [(s, f, start) for s in (5, 6) for f in (0.5, 1.0) for start in ("random", pretrained)]
    assert len({job.folder for job in plan.jobs}) == 8
    job = plan.jobs[2]
    assert job.folder == plan.output_dir / "random" / "fraction-1" / "seed-5"
    given = (job.arguments.init, job.arguments.seed, job.arguments.data_fraction, job.arguments.resume)
    assert given == ("random", 5, 1.0, "auto") and job.arguments.output_dir == str(job.folder)
    assert "backbone 90/90" in "\n".join(plan.lines) and plan.warnings == []


def test_random_weights_are_of_the_same_network(arguments, pretrained):
    plan = make_plan(arguments(), ["random", pretrained], [1.0], 1)
    random = plan.jobs[0].arguments
    assert random.backbone == "resnet10t" and random.detector_options["fpn_channels"] == 8
    assert random.detector_options["backbone_kwargs"] == TINY["detector_options"]["backbone_kwargs"]
    assert plan.warnings == []


def test_other_networks_and_other_lengths_are_warned_about(arguments, pretrained, tmp_path):
    config = MCLConfig.from_pretrained(pretrained)
    config.fpn_channels = 16
    MCLModel(config).save_pretrained(tmp_path / "wide")
    options = {"auto": True, "max_steps": None, "batch_size": None, "min_size_train": None, "max_size_train": None}
    plan = make_plan(arguments(**options), [pretrained, "random", str(tmp_path / "wide")], [1.0], 1)
    assert "are different networks (fpn_channels 16 and 8)" in plan.warnings[0]
    assert "starts train for different numbers of steps with 100 % of labels" in plan.warnings[1]


def test_names_of_folders_are_safe_and_distinct(tmp_path, monkeypatch):
    (tmp_path / "a" / "run").mkdir(parents=True)
    (tmp_path / "b" / "run").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    starts = ["random", "timm:resnet50", "timm:resnet50.a1_in1k", "timm:hf-hub:me/Net", "a/run", "b/run", "a/Run",
              "user/name", "user-name", "../" * 9, "a b/ü*?:", "timm:con.", "x" * 300]  # fmt: skip
    names = [start_folder(start) for start in starts]
    assert len({name.lower() for name in names}) == len(starts)
    assert all(name.isascii() and not set(name) & set('/\\:*?"<>| ') and 0 < len(name) < 80 for name in names)
    assert all(name[0] != "." and name[-1] not in ". " for name in names)
    assert start_folder("a/run") == start_folder(str(tmp_path / "a" / "run")) == start_folder("b/../a/run/")
    assert names[:3] == ["random", "timm-resnet50", "timm-resnet50.a1_in1k"]


@pytest.mark.parametrize(
    ("starts", "fractions", "seeds", "changes", "said"),
    [
        (["random"], [1.0], 1, {}, "needs two starts or more"),
        (["random", "random"], [1.0], 1, {}, "names random twice"),
        (["random", "no/such/start"], [1.0], 1, {}, "no/such/start"),
        (["random", "timm:no_such_net"], [1.0], 1, {}, "no_such_net"),
        (["random", "RUN"], [1.0], 1, {"detector_options": {"fpn_channels": 16}}, "fpn_channels 8, but 16"),
        (["random", "RUN"], [0.0, 1.0], 1, {}, "--fractions must be above 0 and at most 1, got 0"),
        (["random", "RUN"], [1.5], 1, {}, "at most 1, got 1.5"),
        (["random", "RUN"], [float("nan")], 1, {}, "at most 1, got nan"),
        (["random", "RUN"], [0.5, 0.5], 1, {}, "names a share twice"),
        (["random", "RUN"], [], 1, {}, "--fractions is empty"),
        (["random", "RUN"], [1.0], 0, {}, "--seeds must be at least 1, got 0"),
        (["random", "RUN"], [0.01], 1, {}, "--fractions 0.01 leaves 1 image(s), and a step takes 2"),
        (["random", "RUN"], [1.0], 1, {"init": "random"}, "--init and --compare are both given"),
        (["random", "RUN"], [1.0], 1, {"data_fraction": 0.5}, "use --fractions"),
        (["random", "RUN"], [1.0], 1, {"resume": "some/checkpoint"}, "goes on by itself"),
        (["random", "RUN"], [1.0], 1, {"data": None}, "--data is missing"),
        (["random", "RUN"], [1.0], 1, {"val_split": "elsewhere"}, "has no annotations of split 'elsewhere'"),
        (["random", "RUN"], [1.0], 1, {"output_dir": None}, "output_dir is not set"),
        (["random", "RUN"], [1.0], 1, {"detector_options": {"nonsense": 1}}, "unknown field 'nonsense'"),
    ],
)
def test_wrong_input_is_one_line_before_the_first_job(
    arguments, pretrained, monkeypatch, tmp_path, starts, fractions, seeds, changes, said
):
    def never(*_):
        raise AssertionError("a job was started")

    monkeypatch.setattr(compare, "run_process", never)
    starts = [pretrained if start == "RUN" else start for start in starts]
    with pytest.raises(InputError) as caught:
        compare_starts(starts, fractions=fractions, seeds=seeds, arguments=arguments(**changes))
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "compared").exists()


def test_masks_are_needed_for_mask_rcnn(arguments, pretrained, tmp_path):
    folder = write_scenes(tmp_path / "boxes", 4, masks=None)
    write_scenes(folder, 2, masks=None, split="val")
    with pytest.raises(InputError, match="use --detector faster_rcnn"):
        make_plan(arguments(data=str(folder)), ["random", pretrained], [1.0], 1)


def test_training_images_are_no_validation_images(arguments, pretrained, tmp_path):
    folder = write_scenes(tmp_path / "one", 6, width=96, height=72)
    file = folder / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] != 1]  # an empty image
    file.write_text(json.dumps(content))
    given = {"data": str(file), "images": str(folder / "train")}
    with pytest.raises(InputError, match="name --val-data"):
        make_plan(arguments(**given), ["random", pretrained], [1.0], 1)
    plan = make_plan(
        arguments(**given, val_data=str(file), val_images=str(folder / "train")), ["random", pretrained], [1.0], 1
    )
    assert plan.warnings == ["AP is measured on the training images, which says little about others"]


def test_a_folder_with_something_else_in_use_or_of_other_options_is_refused(arguments, pretrained, tmp_path):
    folder = tmp_path / "compared"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds something else than a comparison \(thesis.txt\)"):
        compare_starts(["random", pretrained], arguments=arguments())
    (folder / "thesis.txt").unlink()
    with (
        FileLock(folder / ".comparison.lock"),
        pytest.raises(InputError, match="another comparison is at work"),
    ):
        compare_starts(["random", pretrained], arguments=arguments())
    starts = ["random", pretrained]
    plan = make_plan(arguments(), starts, [1.0], 1)
    make_plan(arguments(base_learning_rate=0.5), starts, [1.0], 1)  # nothing has run yet
    plan.jobs[0].folder.mkdir(parents=True)
    make_plan(arguments(base_learning_rate=0.5, num_workers=1), starts, [0.5, 1.0], 3)  # more jobs are welcome
    with pytest.raises(InputError, match=r"jobs with another base_learning_rate 0.5 \(now 0.1\)"):
        make_plan(arguments(base_learning_rate=0.1), starts, [1.0], 1)
    other = write_scenes(tmp_path / "other", 16, width=96, height=72, seed=1)
    write_scenes(other, 6, width=96, height=72, split="val", seed=1)
    with pytest.raises(InputError, match="another training data, validation data"):
        make_plan(arguments(base_learning_rate=0.5, data=str(other)), starts, [1.0], 1)


def test_other_weights_in_the_same_place_are_noticed(arguments, pretrained, tmp_path):
    model = MCLModel.from_pretrained(pretrained)
    model.save_pretrained(tmp_path / "start")
    starts = ["random", str(tmp_path / "start")]
    make_plan(arguments(), starts, [1.0], 1).jobs[0].folder.mkdir(parents=True)
    make_plan(arguments(), starts, [1.0], 1)
    with torch.no_grad():
        next(model.parameters()).add_(1)
    model.save_pretrained(tmp_path / "start")
    with pytest.raises(InputError, match="another .*start"):
        make_plan(arguments(), starts, [1.0], 1)


def test_a_launcher_with_several_processes_is_refused(arguments, pretrained, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="without a launcher"):
        compare_starts(["random", pretrained], arguments=arguments())


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--compare random,b --init random", "--init and --compare are both given"),
        ("--fractions 0.1,1 --init random", "--fractions belongs to --compare"),
        ("--seeds 3 --init random", "--seeds belongs to --compare"),
        ("--keep-models --init random", "--keep-models belongs to --compare"),
        ("--compare random,b --fractions some", "--fractions must be numbers"),
        ("--compare random,b --seeds some", "--seeds"),
    ],
)
def test_the_command_refuses_in_one_line(flags, said, scenes, tmp_path, capsys):
    base = ["finetune", "--data", str(scenes), "--output-dir", str(tmp_path / "out")]
    assert main([*base, *flags.split()]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


# --- between jobs -----------------------------------------------------------------------------------------------------


def test_time_left_is_that_of_jobs_alike(arguments, pretrained):
    jobs = make_plan(arguments(), ["random", pretrained], [0.5, 1.0], 2).jobs
    assert seconds_left(jobs, {}) is None
    first = {jobs[0]: JobResult(jobs[0].start, 0.5, 0, seconds=10)}
    assert seconds_left(jobs[1:], first) == 70  # nothing better is known
    more = {**first, jobs[2]: JobResult(jobs[2].start, 1.0, 0, seconds=100)}
    assert seconds_left([jobs[1]], more) == 10 and seconds_left([jobs[3], jobs[6]], more) == 200


def test_a_finished_job_keeps_its_numbers(tmp_path):
    names = ["metrics.json", "log.jsonl", "README.md", "config.json", "model.safetensors"]
    for name in names:
        (tmp_path / name).write_text(name)
    for name in ("checkpoints/step-00000001", "best", "evaluation"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_text("x")
    (tmp_path / "checkpoints" / "last").symlink_to("step-00000001")
    drop_rest(tmp_path, keep_model=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names, "evaluation"])
    drop_rest(tmp_path, keep_model=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[:3])
    text = (tmp_path / "README.md").read_text()
    assert "The weights of this run were dropped" in text
    drop_rest(tmp_path, keep_model=False)
    assert (tmp_path / "README.md").read_text() == text


def test_a_damaged_result_is_named(tmp_path):
    assert read_result(tmp_path) is None
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(InputError, match=r"metrics.json is damaged: delete"):
        read_result(tmp_path)


def test_a_job_that_fails_does_not_end_the_comparison(arguments, pretrained, monkeypatch, tmp_path, capsys):
    """Results are written where jobs would; the process that trains is left out here."""

    def process(job, lock, keep_model, stop):
        job.folder.mkdir(parents=True, exist_ok=True)
        if (job.start, job.seed) == ("random", 1):
            job.output.write_text("...\nmcl-hf: error: the loss became NaN\n")
            return 3
        ap = (0.1 if job.start == "random" else 0.3) + 0.01 * job.seed
        result = JobResult(job.start, job.fraction, job.seed, {"eval/box/AP": ap}, 4, 4, 16, 1.0)
        (job.folder / "metrics.json").write_text(json.dumps(asdict(result)))
        return 0

    monkeypatch.setattr(compare, "run_process", process)
    with pytest.raises(
        InputError, match=r"1 of 6 jobs failed.*The first, random.* seed 1: the loss became NaN"
    ) as caught:
        compare_starts(["random", pretrained], fractions=[1.0], seeds=3, arguments=arguments())
    assert "\n" not in str(caught.value)
    content = json.loads((tmp_path / "compared" / "comparison.json").read_text())
    assert content["jobs_done"] == 5 and len(content["failed"]) == 1
    assert content["differences"][0]["on_seeds"] == [0, 2]
    assert "5 of 6" in (tmp_path / "compared" / "comparison.md").read_text()
    assert "about 4 s left" in capsys.readouterr().out


# --- whole comparisons ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_start_that_knows_the_things_wins(arguments, scenes, tmp_path, capsys):
    """Faster R-CNN on the scenes that it is measured on; one start has been trained on them before."""
    options = {name: value for name, value in TINY["detector_options"].items() if not name.startswith("mask")}
    options |= {
        "backbone_kwargs": {"channels": [16, 32, 48, 64], "stem_width": 16},
        "fpn_channels": 32,
        "box_fc_dim": 64,
    }
    common = {
        "detector": "faster_rcnn", "detector_options": options, "batch_size": 4, "base_learning_rate": 0.32,
        "val_data": str(scenes), "val_split": "train", "min_size_train": [96], "min_size_test": 96,
        "max_size_train": 160, "max_size_test": 160, "save_every_steps": 0, "log_every_steps": 20,
    }  # fmt: skip
    start = arguments(
        **common, init="random", backbone="resnet10t", max_steps=120, output_dir=str(tmp_path / "teacher")
    )
    teacher = mcl_hf.finetune(start)
    assert teacher.metrics["eval/box/AP"] > 0.02
    common["detector_options"] = {}
    again = arguments(**common, max_steps=40)
    starts = ["random", str(tmp_path / "teacher")]
    result = compare_starts(starts, fractions=[0.5], seeds=2, arguments=again)

    folder = tmp_path / "compared"
    for seed in "01":
        job = folder / "random" / "fraction-0.5" / f"seed-{seed}"
        assert sorted(path.name for path in job.iterdir()) == ["README.md", "log.jsonl", "metrics.json"]
        found = read_result(job)
        assert found.figures["eval/box/AP"] == read_log(job / "log.jsonl")[-1]["eval/box/AP"]
        assert (found.steps, found.images) == (40, 8)
    content = json.loads((folder / "comparison.json").read_text())
    assert content["jobs_done"] == 4 and content["figure"] == "eval/box/AP"
    means = {(entry["fraction"], entry["start"]): entry["mean"] for entry in content["means"]}
    assert means[0.5, starts[1]] > means[0.5, "random"] + 1
    assert (folder / "comparison.png").stat().st_size > 10_000
    text = (folder / "comparison.md").read_text()
    assert result.sentence in text and "teacher" in result.sentence and "2 seeds" in result.sentence
    assert "job 4 of 4" in capsys.readouterr().out

    begun = time.perf_counter()  # all is done: nothing is run again
    assert compare_starts(starts, fractions=[0.5], seeds=2, arguments=again).sentence == result.sentence
    assert time.perf_counter() - begun < 10


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_comparison_killed_at_once_goes_on_where_it_was(arguments, pretrained, tmp_path):
    recipe = {name: value for name, value in OPTIONS.items() if name not in ("max_steps", "detector_options")}
    recipe |= {"max_steps": 40, "detector_options": HEADS, "base_learning_rate": 0.2}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    given = arguments(max_steps=40, base_learning_rate=0.2)
    folder = tmp_path / "compared"
    command = [
        sys.executable, "-m", "mcl_hf.cli", "finetune", "--compare", f"random,{pretrained}", "--fractions", "0.5",
        "--seeds", "1", "--keep-models", "--recipe", str(tmp_path / "recipe.yaml"), "--data", given.data,
        "--output-dir", str(folder),
    ]  # fmt: skip
    job = folder / "random" / "fraction-0.5" / "seed-0"

    def start():
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def newest():
        return max([int(path.name[5:]) for path in (job / "checkpoints").glob("step-*")], default=0)

    def wait_for(step):
        deadline = time.monotonic() + 240
        while newest() < step:
            assert time.monotonic() < deadline and process.poll() is None, process.stdout.read()
            time.sleep(0.02)

    process = start()
    wait_for(4)
    process.send_signal(signal.SIGKILL)  # as a machine that goes away: the job is not told
    process.wait()
    with FileLock(folder / ".job.lock", timeout=60):  # it has noticed, saved and left
        done = newest()
    assert 4 <= done < 40 and not (job / "metrics.json").exists()

    process = start()
    wait_for(done + 2)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and "stopped by SIGTERM after 0 of 2 jobs: the same command goes on" in said
    assert not (job / "metrics.json").exists()

    process = start()
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert job.with_suffix(".txt").read_text().count("resuming after step") == 2
    assert {path.name for path in job.iterdir()} == {
        "metrics.json", "log.jsonl", "README.md", "config.json", "model.safetensors", "preprocessor_config.json",
        "training_state.json", "evaluation",
    }  # fmt: skip

    plan = make_plan(given, ["random", pretrained], [0.5], 1)  # the same job, never interrupted
    whole = mcl_hf.finetune(
        FinetuneArguments(**{**asdict(plan.jobs[0].arguments), "output_dir": str(tmp_path / "run")})
    )
    clock = ("seconds", "images_per_second", "data_wait_share", "peak_memory_gib")

    def logged(path):
        return [{k: v for k, v in record.items() if k not in clock} for record in read_log(path / "log.jsonl")]

    assert logged(job) == logged(whole.output_dir)
    assert read_result(job).figures == {k: v for k, v in whole.metrics.items() if k.startswith("eval/")}
    assert (
        "OMP_NUM_THREADS" not in os.environ
        or (job / "model.safetensors").read_bytes() == (tmp_path / "run" / "model.safetensors").read_bytes()
    )
