"""AP while fine-tuning: when it is measured, on what statistics, what is best so far, and when it is enough.

Where it sits: the loop asks this watch at logging steps; `finetune.py` asks it once more at the end. It also hands each
record to the rules of `health.py`, and says what they find. An evaluation leaves no trace in training:
batch-norm statistics that were made anew for it are put back.
"""

import itertools
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..annotations.detection_data import DetectionData
from ..engine.arithmetic import copy_to_device
from ..engine.run import Watch, on_main_process
from ..engine.saving import no_progress_bar, replace_folder
from ..evaluation.evaluate import DetectionMetrics, evaluate_detections
from ..evaluation.evaluation_files import write_evaluation
from ..evaluation.predict_data import predict_data
from ..evaluation.results import gather_results, to_results
from ..models.precise_bn import training_norms, update_statistics
from .ema import averaged, put_back
from .health import observe, verdicts
from .step import FinetuneRun, forward
from .train_loader import DetectionBatch, DetectionLoader

BEST = "best"
"""Folder of the detector with the best AP so far."""
_STEP = ".step"


@dataclass
class EvaluationWatch(Watch):
    """Evaluates every `eval_every_steps`, keeps the best detector, ends a run that no longer gains, and warns of one
    that has gone wrong."""

    run: FinetuneRun
    data: DetectionData | None  # that AP is measured on; None: nothing is measured
    train_loader: DetectionLoader  # what batch-norm statistics are made of, from a step on
    newest: DetectionMetrics | None = None
    final_buffers: dict[str, torch.Tensor] | None = None  # of the network as it was evaluated after the last step

    def __post_init__(self) -> None:
        self._forget_lost_best()
        self.enough = self._has_patience_ended()  # of a run that is resumed after its early end

    def _forget_lost_best(self) -> None:
        """Checkpoints travel without `best/`, and steps after the checkpoint may have written another one."""
        run, best, folder = self.run, self.run.state.best, self.run.output_dir / BEST

        def is_there() -> bool:
            note = folder / _STEP  # which earlier versions did not write
            return folder.is_dir() and (not note.is_file() or note.read_text() == str(best["eval_step"]))

        if "eval_step" not in best or on_main_process(run.accelerator, is_there):
            return
        run.tracking.print(
            f"warning: {folder} with the best detector so far (step {best['eval_step']}) is not there, or is of "
            "another step: the best is searched anew from here on"
        )
        run.state.best = without_best(best)

    def due(self, step: int) -> bool:
        """Where AP is measured, and after the first step, whose loss the others are held against."""
        return step == 1 or self._evaluates(step)

    def _evaluates(self, step: int) -> bool:
        every = self.run.arguments.eval_every_steps or 0
        return self.data is not None and (step == self.run.state.max_steps or (every > 0 and step % every == 0))

    def judge(self, record: dict[str, Any]) -> None:
        """Evaluate where it is due, and look whether the run is sound; figures and warnings go into the record. All
        ranks."""
        last = self.run.state.step == self.run.state.max_steps
        if self._evaluates(self.run.state.step):
            with statistics_restored(self.run.network), averaged(self.run):
                make_statistics(self.run, self.train_loader)
                figures = self.evaluate()
                record |= figures
                self._keep_if_best(figures)
                self.enough = self._has_patience_ended()
                if last:
                    self.final_buffers = {name: buffer.clone() for name, buffer in self.run.network.named_buffers()}
        self._warn(record, ended=last or self.enough)

    def _warn(self, record: dict[str, Any], ended: bool) -> None:
        """Say what is wrong with the run where that is new, and once more at its end; new lines go into the record."""
        state = self.run.state
        final_ap = None
        if ended and self.data is not None:
            stops_early = bool(self.run.arguments.early_stopping_patience)  # then the best detector is the finished one
            final_ap = state.best["eval_AP"] if stops_early else record[main_figure(record)]
        streak = observe(state.health.get("streak", {}), record)
        lines = verdicts(streak, record, state.max_steps, final_ap)
        new = [line for rule, line in lines.items() if rule not in state.health.get("said", [])]
        state.health = {"streak": streak, "said": sorted(lines)}
        if new:
            record["health"] = new
        for line in lines.values() if ended else new:
            self.run.tracking.print(f"warning: {line}")

    def evaluate(self) -> dict[str, float]:
        """Detect and score with the network as it is; figures by name, such as `eval/box/AP`. All ranks; the main
        process writes `evaluation/` in the run's folder, and with `log_images` its pictures go to the trackers."""
        run, data = self.run, self.data
        assert data is not None, "asked to evaluate without data"
        arguments = run.arguments
        own = len(range(run.accelerator.process_index, len(data), run.accelerator.num_processes))
        run.network.eval()
        try:
            with run.tracking.progress(own, "evaluation", "image") as bar:
                predicted = predict_data(
                    run.network,
                    run.processor,
                    data,
                    batch_size=arguments.eval_batch_size,
                    num_workers=arguments.num_workers,
                    precision=arguments.precision,
                    skip_broken=True,
                    progress=bar.update,
                )
        finally:
            run.network.train()
        unread = run.total_over_ranks(len(predicted.broken))
        if unread:
            known = [f" ({data.names[index]}: {reason})" for index, reason in predicted.broken.items()][:1]
            run.tracking.print(
                f"warning: in {unread} of the {len(data)} images to measure on nothing was looked for, as they cannot "
                f"be read{''.join(known)}: what is annotated there counts as missed"
            )
        results = gather_results(to_results(predicted.detections, data), data)

        def score() -> dict[str, float]:
            with_masks = data.has_masks and arguments.masks
            metrics = evaluate_detections(data, results, backend=arguments.eval_backend, masks=with_masks)
            about = {"run": str(run.output_dir), "step": run.state.step, "seed": arguments.seed}
            written = write_evaluation(run.output_dir / "evaluation", data, results, metrics, about)
            for path in written if arguments.log_images else []:
                if path.suffix == ".png":
                    with Image.open(path) as picture:
                        run.tracking.log_picture(path.stem, np.asarray(picture.convert("RGB")), run.state.step)
            self.newest = metrics
            return figures_of(metrics)

        return on_main_process(run.accelerator, score)

    def _keep_if_best(self, figures: dict[str, float]) -> None:
        best, ap = self.run.state.best, figures[main_figure(figures)]
        if ap > best.get("eval_AP", -1.0):
            now = {"eval_AP": ap, "eval_step": self.run.state.step, "evaluations_since": 0}
            on_main_process(self.run.accelerator, self._save_best)
        else:
            now = {"evaluations_since": best["evaluations_since"] + 1}
        self.run.state.best = best | now

    def _save_best(self) -> None:
        folder = self.run.output_dir / f".{BEST}.partial"
        shutil.rmtree(folder, ignore_errors=True)
        with no_progress_bar():
            self.run.network.save_pretrained(folder)
        self.run.processor.save_pretrained(folder)
        (folder / _STEP).write_text(str(self.run.state.step))
        replace_folder(folder, self.run.output_dir / BEST)

    def _has_patience_ended(self) -> bool:
        patience = self.run.arguments.early_stopping_patience or 0
        return patience > 0 and self.run.state.best.get("evaluations_since", 0) >= patience


def statistics_restored(model: torch.nn.Module) -> AbstractContextManager[None]:
    """The statistics of all batch norms are put back at the end, so that an evaluation leaves no trace in training."""
    endings = ("running_mean", "running_var", "num_batches_tracked")
    return put_back(buffer for name, buffer in model.named_buffers() if name.endswith(endings))


def make_statistics(run: FinetuneRun, loader: DetectionLoader) -> None:
    """Make the batch-norm statistics anew from the `precise_bn_steps` training batches that come next, but no more than
    an epoch has. All ranks."""
    steps = min(run.arguments.precise_bn_steps or 0, loader.steps_per_epoch)
    if not steps or not training_norms(run.network):
        return
    loader.load_state_dict({"step": run.state.step * run.arguments.gradient_accumulation_steps})

    def pass_through(batch: DetectionBatch) -> None:
        on_device = batch.map(partial(copy_to_device, device=run.accelerator.device))
        with run.accelerator.autocast():
            forward(run, run.network, on_device, batch.step)
        bar.update()

    with run.tracking.progress(steps, "batch-norm statistics", "batch") as bar:
        update_statistics(run.network, pass_through, itertools.islice(loader, steps))


def figures_of(metrics: DetectionMetrics) -> dict[str, float]:
    """Box and mask figures by the name that the log has for them; what cannot be measured is left out."""
    figures = {f"eval/box/{name}": value for name, value in metrics.box.figures.items()}
    if metrics.mask is not None:
        figures |= {f"eval/mask/{name}": value for name, value in metrics.mask.figures.items()}
    return {name: value for name, value in figures.items() if value is not None}


def main_figure(figures: Mapping[str, Any]) -> str:
    """The figure that decides which detector is best: mask AP where there are masks."""
    return "eval/mask/AP" if "eval/mask/AP" in figures else "eval/box/AP"


def without_best(best: Mapping[str, int | float]) -> dict[str, int | float]:
    """`TrainingState.best` without what is known of evaluations."""
    return {name: value for name, value in best.items() if not name.startswith("eval")}
