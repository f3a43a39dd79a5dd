"""The finished detector: which weights and statistics remain, and the README beside them.

Where it sits: after the last step of fine-tuning, all ranks; the main process writes.
"""

from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from mcl_hf.detection.finetune_evaluation import EvaluationWatch, best_folder, make_statistics
from mcl_hf.detection.finetune_step import FinetuneRun
from mcl_hf.training.finish import duration, write_finished
from mcl_hf.training.run import on_main_process

_README = """\
---
library_name: transformers
pipeline_tag: {pipeline}
tags:
- mcl_hf
- object-detection
---

# {title}

A {detector} with a {backbone} backbone and FPN, fine-tuned with mcl_hf {version} from `{init}`.

```python
import mcl_hf  # registers the detectors with transformers
from transformers import pipeline

detect = pipeline("object-detection", model="{title}")
detect("image.jpg")
```

| | |
|---|---|
| classes | {classes} |
| data | {data} |
| steps | {steps} of {batch} images |
| images | shorter side {min_size_train} px in training, {min_size_test} px in evaluation |
| optimizer | {optimizer}, learning rate {lr:g} for 16 images |
| frozen | {frozen} |
| seed | {seed} |
| training time | {time} on {processes} process(es) |

{figures}
"""


_TITLES = {"mask_rcnn": "Mask R-CNN", "faster_rcnn": "Faster R-CNN", "retinanet": "RetinaNet"}


def finish(run: FinetuneRun, *, watch: EvaluationWatch) -> None:
    """Write the finished detector: the best one where the run could end early, the last one otherwise. All ranks.

    Raises:
        InputError: the folder cannot be written; the checkpoints are whole.
    """
    best = best_folder(run.output_dir)
    chosen = run.state.step
    if run.arguments.early_stopping_patience and "eval_step" in run.state.best:
        chosen = int(run.state.best["eval_step"])
        run.network.load_state_dict(load_file(best / "model.safetensors", device=str(run.accelerator.device)))
    elif watch.final_buffers is not None:
        buffers: dict[str, Tensor] = dict(run.network.named_buffers())
        for name, value in watch.final_buffers.items():
            buffers[name].copy_(value)
    else:  # nothing to evaluate on, or a run that was interrupted after its last step
        make_statistics(run, watch.train_loader)
        if watch.data is not None:
            run.metrics = run.metrics | watch.evaluate()
    on_main_process(run.accelerator, lambda: write_finished(run, run.network, readme(run, chosen)))
    for line in watch.newest.lines() if watch.newest is not None else []:
        run.tracking.print(line)


def readme(run: FinetuneRun, step: int) -> str:
    """The README of a finished detector: what was recorded, and nothing else.

    Args:
        run: that is finished.
        step: that its weights are of.
    """
    from mcl_hf.version import __version__

    arguments, state, config = run.arguments, run.state, run.network.config
    names = [config.id2label[index] for index in range(len(config.id2label))]
    values: dict[str, Any] = {
        "pipeline": "image-segmentation" if config.detector == "mask_rcnn" else "object-detection",
        "title": run.output_dir.resolve().name,
        "detector": _TITLES[config.detector],
        "backbone": config.backbone,
        "version": __version__,
        "init": arguments.init,
        "classes": ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else ""),
        # without the path, which says more of the machine than of the data
        "data": f"{state.data['num_images']:,} images with {state.data['num_objects']:,} objects",
        "steps": f"{step:,}" if step == state.step else f"{step:,} (the best of {state.step:,})",
        "batch": state.global_batch_size,
        "min_size_train": _range(arguments.min_size_train or []),
        "min_size_test": arguments.min_size_test,
        "optimizer": arguments.optimizer,
        "lr": arguments.base_learning_rate,
        "frozen": f"freeze_at {arguments.freeze_at}, frozen_bn {str(arguments.frozen_bn).lower()}",
        "seed": arguments.seed,
        "time": duration(state.seconds),
        "processes": state.world_size,
        "figures": _figures(run, step),
    }
    return _README.format(**values)


def _range(sizes: list[int]) -> str:
    return str(sizes[0]) if len(sizes) == 1 else f"{min(sizes)} to {max(sizes)}"


def _figures(run: FinetuneRun, step: int) -> str:
    """One run's figures, said to be one run's."""
    if step != run.state.step:
        ap = run.state.best["eval_AP"]
        return f"AP {100 * ap:.1f} on the validation data, by which these weights were chosen; one run, one seed."
    figures = {name: value for name, value in run.metrics.items() if name.startswith("eval/")}
    if not figures:
        return "Its AP was not measured."
    lines = ["AP on the validation data, in percent; one run, one seed:", "", "| | AP | AP50 | AP75 |"]
    lines.append("|---|---|---|---|")
    for kind in ("box", "mask"):
        if f"eval/{kind}/AP" in figures:
            cells = [_percent(figures.get(f"eval/{kind}/{name}")) for name in ("AP", "AP50", "AP75")]
            lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
