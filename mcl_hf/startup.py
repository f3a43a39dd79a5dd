"""The check that runs before anything else: do the installed torch and torchvision belong together?

A torchvision built for another torch fails deep inside some other import: `operator torchvision::nms does not exist`.
`mcl_hf/__init__.py` calls `check_torch_and_torchvision` first, so that the reader sees one line that says what to do.
"""

import os
import signal
import sys
from importlib import metadata
from pathlib import Path
from types import FrameType


def check_torch_and_torchvision() -> None:
    """Import torch and torchvision and run one compiled operator of torchvision: an ImportError where either is missing
    or the two were not built for each other; inside the `mcl-hf` command the same line on stderr and exit code 2."""
    try:
        import torch
        import torchvision

        torchvision.ops.nms(torch.empty(0, 4, device="cpu"), torch.empty(0, device="cpu"), 0.5)
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "torchvision"):
            raise
        _stop(f"{error.name} is not installed: pip install torch torchvision")
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        _stop(
            f"torch {_version('torch')} and torchvision {_version('torchvision')} do not fit each other ({reason}): "
            "install a pair that was built together, for example with: pip install --upgrade torch torchvision"
        )


def leave_quietly_on_interrupt() -> None:
    """Inside the command, let Ctrl-C while the packages are imported end in one line; `run_command` undoes it."""
    if _is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupted)


def expect_interrupts_again() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again, where `leave_quietly_on_interrupt` had changed that."""
    if signal.getsignal(signal.SIGINT) is _interrupted:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupted(number: int, frame: FrameType | None) -> None:
    print("mcl-hf: interrupted", file=sys.stderr, flush=True)
    os._exit(130)  # an exception would be lost in, or garbled by, a half-done import


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(unknown version)"


def _stop(line: str) -> None:
    if _is_command():
        print(f"mcl-hf: error: {line}", file=sys.stderr)
        raise SystemExit(2)
    raise ImportError(line) from None


def _is_command() -> bool:
    """Whether this process is `mcl-hf ...` or `python -m mcl_hf.cli ...` (`sys.argv[0]` is still "-m" by now)."""
    program = sys.argv[0] if sys.argv else ""
    return Path(program).stem == "mcl-hf" or (program == "-m" and "mcl_hf.cli" in sys.orig_argv)
