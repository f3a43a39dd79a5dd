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

from mcl_hf.cli import COMMANDS
from mcl_hf.cli.show import PICTURES

BASE = "import torch, transformers"
COMMAND = "import sys; sys.argv = ['mcl-hf', *{!r}.split()]; from mcl_hf.cli import main; sys.exit(main())"
CASES = {
    BASE: BASE,
    "import mcl_hf": "import mcl_hf",
    "from mcl_hf import MCLModel": "from mcl_hf import MCLModel",
    "from transformers import PreTrainedModel": "from transformers import PreTrainedModel",
    **{f"mcl-hf {line}": COMMAND.format(line) for line in (
        "--help", "--version", "pretrain --bach 3", "finetune --recipe nothing",
        "evaluate --data nowhere.json detector",
        *(f"{name} --help" for name in COMMANDS if name != "show"), *(f"show {name} --help" for name in PICTURES),
    )},
}  # fmt: skip


def processor_seconds(code: str) -> float:
    """User and system time of a fresh interpreter that runs `code`."""
    before = os.times()
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    seconds: dict[str, list[float]] = {name: [] for name in CASES}
    for code in CASES.values():  # once for the file cache
        processor_seconds(code)
    for _ in range(rounds):
        empty = processor_seconds("pass")
        for name, code in CASES.items():
            seconds[name].append(processor_seconds(code) - empty)
    print(f"{'':44} {'s':>6} {'ratio':>6}  spread of the ratio")
    for name, values in seconds.items():
        ratios = [value / base for value, base in zip(values, seconds[BASE], strict=True)]
        print(
            f"{name:44} {statistics.median(values):6.2f} {statistics.median(ratios):6.3f}  "
            f"{min(ratios):.3f} to {max(ratios):.3f}"
        )


if __name__ == "__main__":
    main()
