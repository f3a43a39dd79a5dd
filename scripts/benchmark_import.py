"""Processor time of what people type first: `import mcl_hf`, the command's help, a mistyped option.

    python scripts/benchmark_import.py [--rounds 5]

Each line is the median over rounds of user and system time of a fresh process, less that of an empty Python, and the
ratio to `import torch, transformers`, taken in turns with it.
"""

import argparse
import os
import statistics
import subprocess
import sys
from functools import partial

from measuring import print_table, take_turns

from mcl_hf.cli import COMMANDS
from mcl_hf.cli.show import PICTURES

BASE, EMPTY = "import torch, transformers", "pass"
COMMAND = "import sys; sys.argv = ['mcl-hf', *{!r}.split()]; from mcl_hf.cli import main; sys.exit(main())"
CASES = {
    **{code: code for code in (EMPTY, BASE, "import mcl_hf", "from mcl_hf import MCLModel",
                               "from transformers import PreTrainedModel")},
    **{f"mcl-hf {line}": COMMAND.format(line) for line in (
        "--help", "--version", "pretrain --bach 3", "finetune --recipe nothing",
        "evaluate --data nowhere.json detector",
        *(f"{name} --help" for name in COMMANDS if name != "show"), *(f"show {name} --help" for name in PICTURES),
    )},
}  # fmt: skip


def children_seconds() -> float:
    """User and system time of all processes that this one has started and waited for."""
    times = os.times()
    return times.children_user + times.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    run = partial(subprocess.run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    runs = {name: partial(run, [sys.executable, "-c", code]) for name, code in CASES.items()}
    taken = take_turns(runs, parser.parse_args().rounds, clock=children_seconds)  # the first fills the file cache
    empty = taken.pop(EMPTY)
    seconds = {name: [a - b for a, b in zip(values, empty, strict=True)] for name, values in taken.items()}
    rows = []
    for name, values in seconds.items():
        ratios = [value / base for value, base in zip(values, seconds[BASE], strict=True)]
        spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
        rows.append([name, f"{statistics.median(values):.2f}", f"{statistics.median(ratios):.3f}", spread])
    print_table(["", "s", "ratio", "spread of the ratio"], rows)


if __name__ == "__main__":
    main()
