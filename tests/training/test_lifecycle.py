"""A run of a task that is not pre-training: same loop, checkpoints, exact resume, guard and signals."""

import json
import os
import signal
import sys
from dataclasses import asdict, dataclass, field
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from mcl_hf.engine.launch import launched
from mcl_hf.engine.lifecycle import continue_state, open_folder, prepare_run, run_to_end
from mcl_hf.engine.resume import COMPARED_BY_RESULT, WITHOUT_INFLUENCE, RecipeRules
from mcl_hf.engine.run import Run
from mcl_hf.engine.state import TrainingState, checkpoints, damage
from mcl_hf.errors import InputError
from mcl_hf.viz import read_log
from tests.training.test_state import Model, Processor

RULES = RecipeRules(("optimizer",), frozenset(WITHOUT_INFLUENCE), frozenset(COMPARED_BY_RESULT))


class NothingToWatch:
    """For a task that logs its outputs as they are, and judges nothing."""

    fatal, enough = None, False

    def due(self, step):
        return False

    def measure(self, outputs):
        return outputs

    def judge(self, record):
        pass


@dataclass
class Arguments:
    """The shared options, and one of this task's own."""

    output_dir: str
    resume: str = "never"
    noise: float = 0.1
    seed: int = 0
    optimizer: str = "sgd"
    precision: str = "fp32"
    device: str = "cpu"
    report_to: list[str] = field(default_factory=list)
    save_every_steps: int = 2
    keep_last: int = 0
    keep_every: int = 0
    log_every_steps: int = 1
    gradient_accumulation_steps: int = 1
    max_steps: int = 6


class Loader:
    """Batches that are a function of the step."""

    def __init__(self, start_step):
        self.start_step = start_step

    def __iter__(self):
        step = self.start_step
        while True:
            yield torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(step))
            step += 1


def step_of_the_task(run, batches, step, broken):
    images = next(batches)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1000 + step))
    loss = run.guard.watch(run.network.norm(run.model.conv(images + run.arguments.noise * noise)).abs().mean(), step)
    run.accelerator.backward(loss)
    run.optimizer.step()
    run.optimizer.zero_grad()
    return {"loss": loss.detach(), "twice": 2 * loss.detach()}


def write_finished(run):
    (run.output_dir / "done.txt").write_text(str(run.state.step))


def run_task(folder, callbacks=(), **options):
    arguments = Arguments(output_dir=str(folder), **options)
    with launched(arguments, folder) as accelerator:
        checkpoint, lines = open_folder(accelerator, folder, arguments.resume)
        state = TrainingState(
            global_batch_size=4, max_steps=arguments.max_steps, arguments=asdict(arguments), task="a toy's task"
        )
        lines += continue_state(checkpoint, state, RULES)
        torch.manual_seed(0)
        network = Model()
        if checkpoint is not None:
            network.load_state_dict(load_file(checkpoint / "model.safetensors"))
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
        model, prepared = prepare_run(accelerator, arguments, network, optimizer, checkpoint, state, folder)
        run = Run(
            arguments=arguments, accelerator=accelerator, state=state, output_dir=folder, model=model,
            network=network, optimizer=prepared,
            loader=Loader(state.step), processor=Processor(), peak_lr=0.1, warmup_steps=0, callbacks=callbacks,
        )  # fmt: skip
        return run_to_end(run, step_of_the_task, NothingToWatch(), lines, write_finished, "done")


class StopAfter:
    def __init__(self, step):
        self.step = step

    def on_log(self, run, record):
        if record["step"] == self.step:
            run.stop.name = "SIGTERM"


class Poison:
    def on_log(self, run, record):
        run.network.conv.weight.data.fill_(float("nan"))


def test_another_task_is_stopped_and_resumed_exactly(tmp_path):
    whole = run_task(tmp_path / "whole")
    assert (whole.steps, whole.stopped_by) == (6, None)
    assert (whole.output_dir / "done.txt").read_text() == "6"
    part = run_task(tmp_path / "part", callbacks=[StopAfter(3)])
    assert (part.steps, part.stopped_by) == (4, "SIGTERM")
    assert not (part.output_dir / "done.txt").exists()
    resumed = run_task(tmp_path / "part", resume="auto")
    losses = [[line["loss"] for line in read_log(r.output_dir / "log.jsonl")] for r in (whole, resumed)]
    assert losses[0] == losses[1] and len(set(losses[0])) == 6
    for name in ("model", "training_state"):
        one, other = (load_file(r.output_dir / f"checkpoints/last/{name}.safetensors") for r in (whole, resumed))
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert json.loads((whole.output_dir / "checkpoints/last/training_state.json").read_text())["task"] == "a toy's task"


def test_a_run_that_was_taken_back_and_stopped_goes_on_from_where_it_was_taken(tmp_path, capfd):
    run_task(tmp_path, max_steps=8)
    folder = tmp_path / "checkpoints"
    back = run_task(tmp_path, max_steps=8, resume=str(folder / "step-00000002"), noise=0.2, callbacks=[StopAfter(3)])
    assert (
        back.steps == 4
        and "aside-... from now on: step-00000004, step-00000006, step-00000008" in capfd.readouterr().out
    )
    assert str((folder / "last").readlink()) == "step-00000004" and damage(folder / "aside-step-00000008") is None
    run_task(tmp_path, max_steps=8, resume="auto", noise=0.2)
    assert "resuming after step 4" in capfd.readouterr().out
    assert [line["step"] for line in read_log(tmp_path / "log.jsonl")] == list(range(1, 9))


def test_a_run_goes_on_where_nobody_listens_any_more(tmp_path, monkeypatch):
    for name in ("stdout", "stderr"):
        reader, writer = os.pipe()
        os.close(reader)
        monkeypatch.setattr(sys, name, os.fdopen(writer, "w", buffering=1))

    def broken_pipe(*_):
        raise BrokenPipeError

    def interrupt(run, record):
        if record["step"] == 3:
            with run.tracking.progress(1, "evaluation", "image"):
                run.tracking.print("a line")
            with monkeypatch.context() as patch:
                patch.setattr(os, "write", broken_pipe)
                signal.raise_signal(signal.SIGINT)

    part = run_task(tmp_path, callbacks=[SimpleNamespace(on_log=interrupt)], max_steps=6)
    assert (part.steps, part.stopped_by) == (4, "SIGINT")
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000002", "step-00000004"]


def test_a_tracker_that_fails_costs_no_run_and_one_that_cannot_start_is_one_line(tmp_path, capfd, monkeypatch):
    def gone(*_args, **_options):
        raise ConnectionResetError("its service was killed")

    def lose(run, record):
        monkeypatch.setattr(run.accelerator.trackers[0], "log", gone)

    assert run_task(tmp_path / "a", [SimpleNamespace(on_log=lose)], report_to=["tensorboard"]).steps == 6
    assert capfd.readouterr().out.count("warning: tensorboard has failed and is told nothing any more") == 1
    monkeypatch.setattr("accelerate.Accelerator.init_trackers", gone)
    with pytest.raises(InputError, match="report_to tensorboard cannot be opened: its service was killed"):
        run_task(tmp_path / "b", report_to=["tensorboard"])


def test_another_task_has_the_guard_and_its_own_rules(tmp_path, capfd):
    with pytest.raises(InputError, match="not finite since step 2.*start again with --resume auto"):
        run_task(tmp_path / "poisoned", callbacks=[Poison()], log_every_steps=1, save_every_steps=0)
    run_task(tmp_path / "run", max_steps=2)
    with pytest.raises(InputError, match="was trained with optimizer sgd, now it is adamw"):
        run_task(tmp_path / "run", resume="auto", optimizer="adamw")
    run_task(tmp_path / "run", resume="auto", noise=0.2, max_steps=4)
    captured = capfd.readouterr()
    assert "warning: resuming with another noise: 0.1 before, 0.2 now" in captured.out + captured.err
