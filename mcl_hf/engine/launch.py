"""From a launcher's processes to Accelerate: device, precision, process group, and what launchers get wrong.

Where it sits: around a whole run, of any task: `with launched(arguments, output_dir) as accelerator`. Everything inside
is the same code for one process and for many.
"""

import inspect
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # comes with accelerate
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, GradScalerKwargs, InitProcessGroupKwargs
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DistributedType, ProjectConfiguration
from torch.nn.parallel import DistributedDataParallel

from ..errors import InputError
from ..new_folder import kept_if_used
from .arithmetic import chosen_device, chosen_precision
from .folder_lock import FolderLock
from .lifeline import Lifeline
from .loop import LARGEST_SCALE
from .options import RunOptions
from .run import on_main_process
from .same_host import sharing_memory
from .tracking import unheard

_CAST = ("cpu", "cuda")  # devices that a caller's autocast may be of
_ACCUMULATION = "ACCELERATE_GRADIENT_ACCUMULATION_STEPS"  # of its configuration file and launcher
_PATIENCE = timedelta(hours=6)  # for what the main process does alone: scoring COCO, saving; `Lifeline` sees dead ranks


@contextmanager
def launched(arguments: RunOptions, output_dir: Path) -> Iterator[Accelerator]:
    """This process among those of the run. All ranks must enter it, and leave it together or with an error. One that is
    refused before it has written anything leaves no folder behind. An InputError for fp16 without a GPU, a launcher
    that was set to split the model, or another run in the folder; a RankLostError where another process died."""
    own_group = not torch.distributed.is_initialized()
    with _state_of_its_own(), torch_of_its_own(), unheard():
        accelerator = _accelerator(arguments, output_dir)
        refuse_split_models(accelerator.distributed_type)
        for line in launch_warnings(accelerator.num_processes, psutil.Process().parent(), os.environ):
            accelerator.print(f"warning: {line}")
        lifeline, lock = Lifeline(accelerator.process_index, accelerator.num_processes), FolderLock(output_dir)
        with kept_if_used(output_dir), closing(lock), lifeline.watching():
            warning = on_main_process(accelerator, lock.acquire)
            if warning is not None:
                accelerator.print(f"warning: {warning}")
            with sharing_memory(accelerator.process_index, accelerator.num_processes, accelerator.device):
                yield accelerator
        if own_group and accelerator.num_processes > 1:
            torch.distributed.destroy_process_group()


@contextmanager
def _state_of_its_own() -> Iterator[None]:
    """Accelerate keeps one device, precision and accumulation a process. What was set before, by a `Trainer` or an
    `Accelerator` of the caller's, is put aside, and back afterwards."""
    kept = [kind._shared_state for kind in (AcceleratorState, PartialState, GradientState)]  # their objects' own dicts
    before = [dict(state) for state in kept]
    try:
        for state in kept:
            state.clear()
        yield
    finally:
        for state, content in zip(kept, before, strict=True):
            state.clear()
            state.update(content)


@contextmanager
def torch_of_its_own() -> Iterator[None]:
    """A run computes as torch does by itself, in float32, on the CPU unless told otherwise, with gradients and without
    autocast, whatever its caller has set. Random states are afterwards what they were: it seeds each of its steps, but
    not what its caller draws later. Of a GPU that nothing has used yet there is none to keep."""
    dtype = torch.get_default_dtype()
    # entered where it changes something: it costs time at every operation
    device: Any = nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")
    states = torch.random.fork_rng(range(torch.cuda.device_count()) if torch.cuda.is_initialized() else [])
    cast = [torch.autocast(kind, enabled=False) for kind in _CAST if torch.is_autocast_enabled(kind)]
    torch.set_default_dtype(torch.float32)
    try:
        with ExitStack() as stack, device, states, torch.inference_mode(False), torch.enable_grad():
            for autocast in cast:
                stack.enter_context(autocast)
            yield
    finally:
        torch.set_default_dtype(dtype)


class _OwnBuffers(DistributedDataParallelKwargs):
    """DDP that leaves buffers alone in the forward pass: batch statistics are already those of all ranks."""

    def to_kwargs(self) -> dict[str, Any]:
        """The argument by its name in the installed torch."""
        known = inspect.signature(DistributedDataParallel).parameters
        return {"forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False}


def _accelerator(arguments: RunOptions, output_dir: Path) -> Accelerator:
    device = chosen_device(arguments.device)
    on_cpu = device.type == "cpu"
    if arguments.precision == "fp16" and on_cpu:
        raise InputError("precision fp16 needs a GPU: use --precision auto, bf16 or fp32 on the CPU")
    precision = chosen_precision(arguments.precision, device)
    accelerator = Accelerator(
        mixed_precision="no" if precision == "fp32" else precision,
        cpu=on_cpu,  # left to itself, it makes strangers of the processes that torchrun starts where there is no GPU
        log_with=arguments.report_to or None,
        project_config=ProjectConfiguration(project_dir=str(output_dir), logging_dir=str(output_dir / "tensorboard")),
        kwargs_handlers=[GradScalerKwargs(init_scale=LARGEST_SCALE), InitProcessGroupKwargs(timeout=_PATIENCE)],
    )
    accelerator.ddp_handler = _OwnBuffers()
    accelerator.gradient_accumulation_steps = 1  # which divides the loss; the loop does so by the run's own option
    return accelerator


def refuse_split_models(distributed_type: DistributedType) -> None:
    """Refuse, by an InputError, Accelerate's settings of other wrappers than DDP, under which no process holds the
    whole network."""
    if distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise InputError(
            f"accelerate is set to {distributed_type.value}, but every process of a run holds the whole model: start "
            "it with accelerate launch --multi_gpu --num_processes N, or with torchrun, and another accelerate config"
        )


def launch_warnings(num_processes: int, parent: Any, environment: Mapping[str, str]) -> list[str]:
    """What a launcher seems to have meant that this run does not do; `parent` is the process that started this one, as
    psutil knows it."""
    accumulation = environment.get(_ACCUMULATION, "1")
    lines = []
    if accumulation != "1":
        lines.append(f"{_ACCUMULATION}={accumulation} has no effect: use --gradient-accumulation-steps")
    if num_processes > 1:
        return lines
    asked = processes_asked_for(parent) or 1
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS", "1"))
    if asked > 1:
        lines.append(
            f"accelerate launch was asked for {asked} processes but started one (it does so with --cpu). "
            f"On the CPU use: torchrun --nproc-per-node {asked} scripts/pretrain.py --device cpu ..."
        )
    elif tasks > 1:
        lines.append(
            f"srun has started this command {tasks} times, and each trains alone. "
            "Start one task a node, and let it be torchrun: docs/running.md has the commands"
        )
    return lines


def processes_asked_for(parent: Any) -> int | None:
    """How many processes `accelerate launch` was asked for, read from the command line that started this one."""
    try:
        words = [] if parent is None else parent.cmdline()
    except psutil.Error:  # not ours to read
        return None
    if not any("accelerate" in word for word in words[:3]):
        return None
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, _, value = word.partition("=")
        if name.replace("-", "_") == "__num_processes" and (value or following).isdigit():
            return int(value or following)
    return None
