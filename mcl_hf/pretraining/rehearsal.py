"""A rehearsal: a few real steps of a run, in a process and a folder of their own.

Where it sits: `mcl-hf doctor` rehearses the smallest run there is, `mcl-hf doctor --plan` the user's, with the data,
model, optimizer and device of `pretrain`, so that what the steps took is what a run takes.

    python -m mcl_hf.pretraining.rehearsal < arguments.json      # what `rehearse` starts
"""

import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..models.montage import MontageLayout
from ..viz import read_log
from .arguments import PretrainArguments
from .plan import Measured

_STEPS = 4  # the first ones touch new memory, tune convolutions or compile
_NO_MEMORY = -9  # the exit code of a process that the system killed for its memory


class OutOfMemory(InputError):
    """The steps did not fit into the memory of the device."""


def rehearse(arguments: PretrainArguments, batch_size: int, folder: Path | None = None) -> Measured:
    """`rehearse_task` for pre-training."""
    images = backbone_images(arguments, batch_size)
    return rehearse_task(arguments, batch_size, "mcl_hf.pretraining.rehearsal", images, folder)


def rehearse_task(
    arguments: Any, batch_size: int, module: str, images: int, folder: Path | None = None, **more: Any
) -> Measured:
    """Run a few steps of `batch_size` images on one process, save the model, open it again, and measure.

    Args:
        arguments: of the run; its length, batch, saving, tracking and resuming are replaced, as is what `more` has.
        module: that reads the options of a run as JSON and runs it, as this one.
        images: that the backbone sees in a pass, M.
        folder: for the rehearsal's own folder, which is removed again; None takes the system's.

    Raises:
        OutOfMemory: they did not fit.
        InputError: the run itself refused; its line.
    """
    with tempfile.TemporaryDirectory(prefix="mcl-hf-rehearsal-", dir=folder) as place:
        run = Path(place) / "run"
        options = dataclasses.asdict(arguments) | {
            "output_dir": str(run),
            "batch_size": batch_size,
            "global_batch_size": None,
            "gradient_accumulation_steps": 1,
            "max_steps": _STEPS,
            "epochs": None,
            "warmup_steps": 0,
            "save_every_steps": 0,
            "keep_every": 0,
            "log_every_steps": 1,
            "report_to": [],
            "resume": "never",
            **more,
        }
        command = [sys.executable, "-m", module]
        finished = subprocess.run(command, input=json.dumps(options), capture_output=True, text=True)
        if finished.returncode:
            lines = finished.stderr.strip().splitlines()
            said = lines[-1] if lines else f"exit code {finished.returncode}"
            if finished.returncode == _NO_MEMORY or "OutOfMemoryError" in said or "can't allocate memory" in said:
                raise OutOfMemory(f"{batch_size} images per process do not fit into memory")
            if finished.returncode != 2:  # a fault, not a refusal
                raise RuntimeError(f"the rehearsal broke off:\n{finished.stderr}")
            raise InputError(said)
        records = read_log(run / "log.jsonl")
        (checkpoint,) = (path for path in (run / "checkpoints").iterdir() if not path.is_symlink())
        whole, saved = _size(run), _size(run / "checkpoints")
        return Measured(
            batch_size=batch_size,
            backbone_images=images,
            seconds=min((1 - r["data_wait_share"]) * batch_size / r["images_per_second"] for r in records[1:]),
            peak_gib=records[-1]["peak_memory_gib"],
            checkpoint_bytes=_size(checkpoint),
            finished_bytes=whole - saved,
        )


def backbone_images(arguments: PretrainArguments, batch_size: int) -> int:
    """M of one side: the batch of N and the montages of the other levels."""
    config = arguments.model_config()
    return sum(MontageLayout.of(batch_size, config.montage_ratios, config.montage_fractions).counts)


def images_per_core_second(loader: Any) -> float:
    """Images a second that one core reads, decodes and transforms, by the processor time of four batches."""
    stream = iter(loader)
    next(stream)
    start = time.process_time()
    images = sum(len(next(stream).sample_ids) for _ in range(4))
    return images / (time.process_time() - start)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def reads_options(run: Callable[[dict[str, Any]], None]) -> int:
    """Run what standard input describes; 2, and the reason on standard error, where it is refused."""
    try:
        run(json.load(sys.stdin))
    except InputError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 2
    return 0


def _main(options: dict[str, Any]) -> None:
    from ..models import MCLModel
    from .pretrain import pretrain

    MCLModel.from_pretrained(pretrain(PretrainArguments(**options)).output_dir)


if __name__ == "__main__":
    raise SystemExit(reads_options(_main))
