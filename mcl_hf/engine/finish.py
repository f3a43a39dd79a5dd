"""The finished run: a slim model at the root of its folder, the whole one in `pretraining/`, and what was recorded.

Where it sits: after the last step, main process only. All is written beside and renamed, so that a run's folder never
holds half a model. The README is a few lines; a callback replaces it by the model's card.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from safetensors import SafetensorError

from ..errors import InputError
from ..files import is_somebodys, sealed
from ..version import __version__
from .run import Run
from .saving import fsync, no_progress_bar, replace_folder
from .state import RECORD

_README = """\
---
library_name: transformers
tags:
- mcl_hf
---

# {title}

{what} by mcl_hf {version}. `mcl-hf card FOLDER`, with the name of this folder, writes what the run recorded in place of
this text.
"""

# What the finished model consists of; a new run refuses a folder that holds any of it.
ROOT_FILES = ("config.json", "model.safetensors", "preprocessor_config.json", RECORD, "README.md")
RUN_ENTRIES = (*ROOT_FILES, "pretraining", "checkpoints", "log.jsonl")


def write_finished(run: Run, model: Any, what: str, more: Mapping[str, Any] | None = None) -> None:
    """Put a model, the run's record and a README, which says `what` it is, into the root of the run's folder, and
    `more` models into folders called as they are. Main process only. An InputError where the folder cannot be written;
    the checkpoints are whole."""
    folders = {run.output_dir / ".finished.partial": model}
    folders |= {run.output_dir / f".{name}.partial": other for name, other in (more or {}).items()}
    try:
        for folder, written in folders.items():
            shutil.rmtree(folder, ignore_errors=True)
            with no_progress_bar():
                written.save_pretrained(folder)
            run.processor.save_pretrained(folder)
            (folder / RECORD).write_text(json.dumps(asdict(run.state), indent=1), encoding="utf-8")
        root, *others = folders
        title = run.output_dir.resolve().name
        readme = sealed(_README.format(title=title, what=what, version=__version__))
        (root / "README.md").write_text(readme, encoding="utf-8")
        for path in root.iterdir():
            fsync(path)
        for folder in others:
            replace_folder(folder, run.output_dir / folder.name.removeprefix(".").removesuffix(".partial"))
        if is_somebodys(run.output_dir / "README.md"):  # notes on the run, say
            (root / "README.md").unlink()
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
    """Seconds in the unit that suits them: `8 s`, `6.7 min`, `8.3 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
