"""The finished detector: which weights and statistics remain.

Where it sits: after the last step of fine-tuning, all ranks; the main process writes.
"""

import torch
from torch import Tensor

from ..detectors.transformers_detectors import TRANSFORMERS_DETECTORS
from ..engine.finish import write_finished
from ..engine.run import on_main_process
from ..engine.saving import no_progress_bar
from ..engine.state import TrainingState
from .ema import take_averages
from .evaluation_watch import BEST, EvaluationWatch, make_statistics
from .step import FinetuneRun

TITLES = {"mask_rcnn": "Mask R-CNN", "faster_rcnn": "Faster R-CNN", "retinanet": "RetinaNet"} | {
    name: kind.title for name, kind in TRANSFORMERS_DETECTORS.items()
}


def finish(run: FinetuneRun, *, watch: EvaluationWatch) -> None:
    """Write the finished detector: the best one where the run could end early, the last one otherwise. All ranks.

    Raises:
        InputError: the folder cannot be written; the checkpoints are whole.
    """
    if run.arguments.ema:
        take_averages(run)
    if is_best_chosen(run.state):
        with no_progress_bar():  # transformers gives the tensors of some models other names in files
            found = type(run.network).from_pretrained(run.output_dir / BEST, dtype=torch.float32)
        run.network.load_state_dict(found.state_dict())
    elif watch.final_buffers is not None:
        buffers: dict[str, Tensor] = dict(run.network.named_buffers())
        for name, value in watch.final_buffers.items():
            buffers[name].copy_(value)
    else:  # nothing to evaluate on, or a run that was interrupted after its last step
        make_statistics(run, watch.train_loader)
        if watch.data is not None:
            run.metrics = run.metrics | watch.evaluate()
    backbone = getattr(run.network.config, "backbone", None)
    title = TITLES[run.arguments.detector or "mask_rcnn"]
    what = f"A {title}" + (f" on a {backbone} backbone with FPN" if backbone else "")
    on_main_process(run.accelerator, lambda: write_finished(run, run.network, f"{what}, fine-tuned"))
    for line in watch.newest.lines() if watch.newest is not None else []:
        run.tracking.print(line)
    if is_best_chosen(run.state) and run.state.best["eval_step"] != run.state.step:
        run.tracking.print(
            f"these figures are of step {run.state.step}; the finished detector is the best one, of step "
            f"{run.state.best['eval_step']}: AP {100 * run.state.best['eval_AP']:.1f} %"
        )


def is_best_chosen(state: TrainingState) -> bool:
    """Whether a finished detector has the weights of the best evaluation, of step `state.best["eval_step"]`: only a run
    that could end early chooses so."""
    return bool(state.arguments.get("early_stopping_patience")) and "eval_step" in state.best
