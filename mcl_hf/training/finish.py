"""The finished run: a slim model at the root of its folder, the whole one in `pretraining/`, and a short README.

Where it sits: after the last step, main process only. Both are written beside and renamed, so that a run's folder
never holds half a model.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ..errors import InputError
from .run import Run, on_main_process
from .saving import fsync, no_progress_bar, replace_folder

_README = """\
---
library_name: transformers
tags:
- mcl_hf
- object-detection
- self-supervised-learning
---

# {title}

A {backbone} backbone, feature pyramid and region head, pre-trained by [MCL](https://arxiv.org/abs/2304.02010)
(multi-level contrastive learning{variant}) with mcl_hf {version}.

```python
from mcl_hf import MCLModel, MCLBackbone

model = MCLModel.from_pretrained("{path}")        # feature_maps P2..P5, embed_regions
backbone = MCLBackbone.from_pretrained("{path}")  # C2..C5, for detectors of transformers
```

| | |
|---|---|
| data | {data} |
| steps | {steps} |
| images per step | {batch} |
| images seen | {images} |
| loss at the last step | {loss} |
| training time | {time} on {processes} process(es) |

How well it transfers to detection has not been measured. `log.jsonl` holds the run's curves; `pretraining/` the model
with target network and predictors, to continue from.
"""

# What the finished model consists of; a new run refuses a folder that holds any of it.
ROOT_FILES = ("config.json", "model.safetensors", "preprocessor_config.json", "README.md")
RUN_ENTRIES = (*ROOT_FILES, "pretraining", "checkpoints", "log.jsonl")


def finish_pretraining(run: Run) -> None:
    """Write the slim model, its processor and README to the run's folder, and the whole model to `pretraining/`. All
    ranks; the main process writes.

    Raises:
        InputError: the folder cannot be written; the checkpoints are whole.
    """
    on_main_process(
        run.accelerator, lambda: write_finished(run, run.network.mcl, readme(run), {"pretraining": run.network})
    )


def write_finished(run: Run, model: Any, text: str, more: Mapping[str, Any] | None = None) -> None:
    """Put a model into the root of the run's folder. Main process only.

    Args:
        run: that is finished.
        model: a PreTrainedModel.
        text: of README.md.
        more: further models, by the name of their folder.

    Raises:
        InputError: the folder cannot be written; the checkpoints are whole.
    """
    folders = {run.output_dir / ".finished.partial": model}
    folders |= {run.output_dir / f".{name}.partial": other for name, other in (more or {}).items()}
    try:
        for folder, written in folders.items():
            shutil.rmtree(folder, ignore_errors=True)
            with no_progress_bar():
                written.save_pretrained(folder)
            run.processor.save_pretrained(folder)
        root, *others = folders
        (root / "README.md").write_text(text, encoding="utf-8")
        for folder in folders:
            for path in folder.iterdir():
                fsync(path)
        for folder in others:
            replace_folder(folder, run.output_dir / folder.name.removeprefix(".").removesuffix(".partial"))
        for path in root.iterdir():
            path.replace(run.output_dir / path.name)
        root.rmdir()
    except (OSError, SafetensorError) as error:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        raise InputError(
            f"the finished model could not be written to {run.output_dir}: {' '.join(str(error).split())}; "
            "the checkpoints are whole. Make room and run again with --resume auto"
        ) from error


def duration(seconds: float) -> str:
    """A length of time in the unit that suits it.

    Example:
        >>> duration(8.4), duration(400), duration(30_000)
        ('8 s', '6.7 min', '8.3 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def readme(run: Run) -> str:
    """The README of a finished run: what was recorded, and nothing else."""
    from ..version import __version__

    state, config = run.state, run.network.config
    values: dict[str, Any] = {
        "title": run.output_dir.resolve().name,
        "backbone": config.backbone,
        "variant": ", supervised" if run.arguments.objective == "supervised" else "",
        "version": __version__,
        "path": Path(run.output_dir).resolve().name,
        "data": state.data["description"].splitlines()[0],
        "steps": f"{state.step:,}",
        "batch": f"{state.global_batch_size:,}",
        "images": f"{state.images_seen:,}",
        "loss": f"{run.metrics['loss']:.4f}" if run.metrics else "not recorded",
        "time": duration(state.seconds),
        "processes": state.world_size,
    }
    return _README.format(**values)
