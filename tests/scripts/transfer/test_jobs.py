"""Jobs on drawn data: equal budgets, starts, results, and what happens when one is killed or asked for again."""

import json
import sys
import threading
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image

from mcl_hf import MCLModel
from mcl_hf.errors import InputError
from mcl_hf.training.arguments import PretrainArguments
from scripts.transfer import report, runner, tuning
from scripts.transfer.arms import ARMS, find_arm, level_fields
from scripts.transfer.flops import steps_for, training_flops
from scripts.transfer.jobs import Job, plan_jobs, read_result, result_file
from scripts.transfer.learning_tables import search_table
from scripts.transfer.pictures import draw_pictures
from scripts.transfer.pretrain_job import make_start, pretrain_options
from scripts.transfer.scales import SCALES


def test_every_arm_of_every_scale_has_options_that_are_accepted(bench):
    for scale in SCALES.values():
        of_scale = replace(bench, scale=scale)
        for name, arm in ARMS.items():
            if arm.objective != "none":
                arguments = PretrainArguments(**pretrain_options(of_scale, find_arm(name), 0, 0))
                assert arguments.model_config().region_size == scale.pretrain["region_size"]
        assert all(find_arm(name) for name in scale.arms)
    for levels in (1, 2, 3, 4):
        assert sum(level_fields(levels)["level_weights"]) == 1


def test_arms_differ_in_what_they_say_and_in_nothing_else(bench):
    mcl = pretrain_options(bench, ARMS["mcl"], 0, 0)
    for name in ("pairing-all", "published-views", "published-scope", "mcl-unmasked"):
        other = pretrain_options(bench, ARMS[name], 0, 0)
        assert {key for key in mcl if mcl[key] != other.get(key)} | (set(other) - set(mcl)) == set(
            ARMS[name].changes
        ), name
    assert mcl["group_column"] == "group"


def test_core_arms_get_equal_flops_and_controls_equal_steps(bench):
    def flops(name):
        arm = ARMS[name]
        config = PretrainArguments(**pretrain_options(bench, arm, 0, 0)).model_config()
        return training_flops(config, arm.objective, arm.model)

    mcl = flops("mcl")
    for name in ("image", "supervised", "supervised-mcl"):
        own = flops(name)
        steps = steps_for(1_000_000, 100, ARMS[name].budget, own, mcl)
        assert own < mcl and steps * own == pytest.approx(10_000 * mcl, rel=1e-3)
    assert flops("published-scope") > 1.1 * mcl and ARMS["published-scope"].budget == "steps"
    assert flops("no-montage") == pytest.approx(mcl, rel=0.05)


def test_a_pipeline_of_one_arm_leaves_results_that_are_never_made_again(bench, capsys):
    jobs = plan_jobs(bench, ["mcl"], [0], [0])
    assert [job.kind for job in jobs] == ["pretrain", "probe", "detect"]
    for job in jobs:
        assert runner.needed(bench, jobs)[0] == job
        assert runner.run_here(bench, job)
    assert runner.needed(bench, jobs) == []
    pretraining, probe, detector = (read_result(bench, job) for job in jobs)
    assert pretraining["visits"] == 16 and pretraining["gflop"] > 0 and len(pretraining["health"]["level_losses"]) == 3
    assert set(probe["features"]) == {"region_head", "embedding", "c5"} and probe["levels"] == ["P3", "P4", "P5"]
    head = probe["features"]["region_head"]
    assert sum(row[0] for row in head["groups"].values()) == probe["objects"][1] == probe["sizes"]["all"]
    right = sum(row[1] for row in head["groups"].values())
    assert right / probe["objects"][1] == pytest.approx(head["knn"]["all"])
    assert 0 <= detector["box"]["AP"] <= 1 and len(detector["mask"]["replicates"]) == 200
    assert all(str(bench.work) not in result_file(bench, job).read_text() for job in jobs)
    assert len(detector["margins"]) == 16 and pretraining["margins"] is None

    files = report.write(bench, plan_jobs(bench, ["random", "mcl"], [0], [0]))
    text = files[0].read_text()
    assert "3 of 5 jobs are done" in text and "Missing: probe-random-f0-s0" in text and "claims nothing" in text
    lines = report.listing(bench, plan_jobs(bench, ["mcl"], [0, 1], [0]))
    assert lines[-1].startswith("3 of 6 done") and sum(line.startswith("open") for line in lines) == 3

    other = replace(bench, scale=replace(bench.scale, pretrain={**bench.scale.pretrain, "temperature": 0.5}))
    with pytest.raises(InputError, match="made with another temperature"):
        runner.run_here(other, jobs[0])

    scenes = bench.data_of(0) / "annotations" / "instances_test.json"
    for picture in draw_pictures(bench, ["random", "mcl"], scenes, count=2):  # nothing of random was run
        with Image.open(picture) as drawn:
            pixels = np.asarray(drawn.resize((32, 32))).reshape(-1, 3)
            assert min(drawn.size) > 200 and len(np.unique(pixels, axis=0)) > 50
    with pytest.raises(InputError, match="holds no detector of fold 0"):
        draw_pictures(bench, ["random"], scenes)


def test_an_interrupted_pretraining_goes_on_where_it_was(bench, monkeypatch):
    job = Job("pretrain", "image", 0, 0)
    module = import_module("mcl_hf.training.pretrain")  # the name is also the function's
    real, calls = module.train_step, []

    def killed(run, batches, step, broken):
        calls.append(step)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(run, batches, step, broken)

    monkeypatch.setattr(module, "train_step", killed)
    with pytest.raises(KeyboardInterrupt):
        runner.run_here(bench, job)
    assert read_result(bench, job) is None
    assert runner.run_here(bench, job)
    assert calls[0] == 0 and calls[2] == 1  # the first step was saved and not made again


def test_a_start_takes_the_parts_of_its_arm_and_makes_the_others_new(bench):
    assert runner.run_here(bench, Job("pretrain", "mcl", 0, 0))
    trained = MCLModel.from_pretrained(bench.work / "pretrain-mcl-f0-s0").state_dict()
    starts = {
        name: MCLModel.from_pretrained(make_start(bench, name, 0, 0)).state_dict()
        for name in ("mcl", "mcl-fpn", "mcl-backbone", "random")
    }
    names = {
        "backbone": "backbone.conv1.0.weight",
        "fpn": "fpn.lateral.3.conv.weight",
        "region_head": "region_head.mlp.0.weight",
    }
    for arm, start in starts.items():
        for part, tensor in names.items():
            reference = trained if part in ARMS[arm].parts else starts["random"]
            assert torch.equal(start[tensor], reference[tensor]), (arm, part)
            assert not torch.equal(trained[tensor], starts["random"][tensor])
    with pytest.raises(InputError, match="holds no finished pre-training of image"):
        make_start(bench, "image", 0, 0)


def test_tuning_is_recorded_trial_by_trial(tmp_path):
    probes = {0: {"features": {"c5": {"knn": {"all": 0.2}, "linear": {"all": 0.3}}}},
              2: {"features": {"c5": {"knn": {"all": 0.4}, "linear": {"all": 0.3}}}}}  # fmt: skip
    found = tuning.record("mcl", probes)
    assert found["best"] == 2 and len(found["trials"]) == 6 and "score" not in found["trials"][1]
    assert max(len(trials) for trials in tuning.TRIALS.values()) <= tuning.MOST_TRIALS
    (tmp_path / "mcl.json").write_text(json.dumps(found))
    table = "\n".join(search_table([tmp_path / "mcl.json"]))
    assert "0.35, `temperature` 0.1 (chosen) | 40.0 | 30.0 | 35.0 |" in table and "Never run: MCL: `min_crop" in table
    with pytest.raises(InputError, match="--tune no-montage"):
        tuning.trials_of("no-montage")


def test_wrong_input_is_one_line(bench, capsys, tmp_path):
    import scripts.benchmark_transfer as command

    assert command.main(["--scale", "cpu"]) == 2
    assert "needs --data" in capsys.readouterr().err
    assert command.main(["--scale", "cpu", "--data", str(tmp_path), "--only", "magic"]) == 2
    assert "no arm 'magic'" in capsys.readouterr().err
    assert command.main(["--scale", "cpu", "--data", str(tmp_path / "{fold}"), "--fold", "0"]) == 2
    assert "holds no scenes" in capsys.readouterr().err
    job = Job("pretrain", "mcl", 0, 0)
    result_file(bench, job).parent.mkdir(parents=True)
    result_file(bench, job).write_text("{")
    with pytest.raises(InputError, match="is damaged"):
        read_result(bench, job)


def test_the_test_split_is_not_asked_before_margins_are_written_down(bench, monkeypatch, tmp_path):
    from scripts.transfer import margins

    monkeypatch.setattr(margins.margins_hash, "__defaults__", (tmp_path / "margins.yaml",))
    asked = replace(bench, scale=replace(bench.scale, name="cpu"))
    with pytest.raises(InputError, match="written down and committed before the test split is asked"):
        runner.run_here(asked, Job("probe", "random", 0, 0, split="test"))


def test_benchmarks_side_by_side_share_the_jobs_and_wait_for_each_other(bench, monkeypatch):
    """A job that another process holds is left to it; what depends on it is run once it is done."""
    monkeypatch.setattr(runner, "WAIT_SECONDS", 0.1)
    jobs = plan_jobs(bench, ["mcl", "random"], [0], [0])
    script = (
        "import pathlib, sys\n"
        f"out, work, name = pathlib.Path({str(bench.results)!r}), pathlib.Path({str(bench.work)!r}), sys.argv[1]\n"
        "(work / name).mkdir(parents=True); (work / name / 'model.safetensors').touch()\n"
        "out.mkdir(parents=True, exist_ok=True); (out / (name + '.json')).write_text('{}')\n"
    )
    bench.work.mkdir()
    other = FileLock(bench.work / f".{jobs[0].name}.lock", thread_local=False)
    other.acquire()
    threading.Timer(1.5, other.release).start()
    assert runner.run_all(bench, jobs, [sys.executable, "-c", script], None, 1) == runner.DONE
    assert sorted(path.stem for path in bench.results.iterdir()) == sorted(job.name for job in jobs)
    made = {job.name: (bench.work / f"{job.name}.log").stat().st_ctime for job in jobs}
    assert made["probe-random-f0-s0"] < made["pretrain-mcl-f0-s0"] < made["probe-mcl-f0-s0"]


def test_a_job_that_fails_is_named_and_the_others_are_run(bench, monkeypatch):
    jobs = plan_jobs(bench, ["random"], [0], [0])
    script = (
        "import pathlib, sys\n"
        "if 'probe' in sys.argv[1]: sys.exit('no room')\n"
        f"out = pathlib.Path({str(bench.results)!r})\n"
        "out.mkdir(parents=True, exist_ok=True); (out / (sys.argv[1] + '.json')).write_text('{}')\n"
    )
    with pytest.raises(InputError, match="1 jobs failed, the first: probe-random-f0-s0; exit code 1: no room"):
        runner.run_all(bench, jobs, [sys.executable, "-c", script], None, 1)
    assert read_result(bench, jobs[1]) == {}
    assert (
        runner.run_all(bench, jobs, [sys.executable, "-c", script], 0.0, 1) == runner.DONE
    )  # no time: nothing started
