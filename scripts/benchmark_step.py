"""Time and memory of one pre-training step, as ratios measured in one run.

    python scripts/benchmark_step.py                      # ResNet-50, 224 px, N = 16: about 25 minutes on two CPU cores
    python scripts/benchmark_step.py --rounds 1 --warmup 1 --steps 2                  # the same in about 12 minutes
    python scripts/benchmark_step.py --device cuda --batch-size 256

A step is forward, backward, LARS and EMA (the supervised step: forward, backward, LARS). Every variant runs in a
process of its own; "peak GiB" is the whole process, "of step" leaves out what the imports took. The variants take turns
for `--rounds` rounds, and ratios are formed from each variant's fastest step.

`published` computes FPN, head and target everywhere, as the published code; `lean` only where the loss reads them;
`supervised` is a plain timm classifier on the same N images. Where a step goes: `profile_step.py`.
"""

import argparse
import json
import resource
import sys
from pathlib import Path
from typing import Any

import torch
from measuring import in_a_process, machine, print_table, take_turns
from training_step import TrainingStep, Variant

from mcl_hf.comparison.flops import counting_flops
from mcl_hf.engine.arithmetic import set_arithmetic

VARIANTS = (
    "published, contiguous",
    "published, channels last",
    "published, channels last, bf16",
    "lean, contiguous",
    "lean, channels last",
    "lean, channels last, in turn",
    "lean, channels last, recompute",
    "lean, channels last, recompute, in turn",
    "lean, channels last, queue of 16384",
    "lean, channels last, compiled",
    "lean, channels last, compiled, in turn",
    "lean, channels last, bf16",
    "lean, channels last, bf16, compiled",
    "lean, channels last, bf16, in turn",
    "supervised, contiguous",
    "supervised, channels last",
    "supervised, channels last, compiled",
    "supervised, channels last, bf16",
    "supervised, channels last, bf16, compiled",
    "lean, channels last, fp16",
    "supervised, channels last, fp16",
)
_PUBLISHED, _LEAN, _SUPERVISED = "published, contiguous", "lean, channels last", "supervised, channels last"
RATIOS = (
    # (what, numerator, denominator, quantity, bound)
    ("lean, best setting, against published as published", _PUBLISHED, "BEST", "seconds", ">= 3.3"),
    ("lean, best setting, against plain fp32", "lean, contiguous", "BEST", "seconds", ">= 1.7 on a GPU"),
    *(
        (f"lean against published, both {setting}", f"published, {setting}", f"lean, {setting}", "seconds", ">= 2.5")
        for setting in ("contiguous", "channels last", "channels last, bf16")
    ),
    *(
        (f"memory {what}, {name} / published", f"{_LEAN}{suffix}", _PUBLISHED, quantity, bound)
        for what, quantity in (("of the process", "peak_gib"), ("of the step", "step_gib"))
        for name, suffix, bound in (
            ("lean", "", "<= 0.65"),
            ("lean recomputing", ", recompute", "<= 0.65"),
            ("lean in turn", ", in turn", "<= 0.42"),
            ("lean recomputing in turn", ", recompute, in turn", "<= 0.42"),
            ("lean bf16 in turn", ", bf16, in turn", "<= 0.42"),
        )
    ),
    ("time, lean recomputing / lean", f"{_LEAN}, recompute", _LEAN, "seconds", "about 1"),
    ("lean / supervised, channels last", _LEAN, _SUPERVISED, "seconds", "<= FLOPS"),
    *(
        (f"lean / supervised, {setting}", f"{_LEAN}, {setting}", f"{_SUPERVISED}, {setting}", "seconds", "<= FLOPS")
        for setting in ("bf16", "compiled", "bf16, compiled")
    ),
)


def peak_gib(device: str) -> float:
    """Memory that this process has held at most, of the device where that is a GPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure_step(
    variant: str, network: dict[str, Any], batch_size: int, device: str, warmup: int, steps: int
) -> dict[str, Any]:
    """Seconds and memory of a variant's steps in this process."""
    settings = Variant(variant)
    spare_memory = settings.in_turn or settings.recompute
    set_arithmetic(torch.device(device), settings.tf32, fixed_shapes=True, spare_memory=spare_memory)
    torch.manual_seed(0)
    imported = peak_gib(device)
    step = TrainingStep(settings, network, batch_size, device)
    seconds = take_turns({variant: step}, steps, warmup=warmup)[variant]
    return {"seconds": seconds, "peak_gib": peak_gib(device), "step_gib": peak_gib(device) - imported}


def count_flops(scope: str, network: dict[str, Any], batch_size: int) -> int:
    """Floating-point operations of forward and backward, counted on the meta device (2 a multiply-add)."""
    with torch.device("meta"):
        step = TrainingStep(Variant(scope), network, batch_size, "meta")
    with counting_flops() as counter:
        step()
    return counter.get_total_flops()


def print_ratios(results: dict[str, dict[str, Any]], flops: dict[str, int]) -> None:
    """The ratios that the project promises, each with its bound."""
    lean = [name for name in results if name.startswith("lean")]
    best = min(lean, key=lambda name: results[name]["seconds"], default="")
    flop_ratio = flops["lean"] / flops["supervised"] if {"lean", "supervised"} <= flops.keys() else 0.0
    print(f"\nbest lean setting: {best}")
    if flop_ratio:
        print(f"FLOPs: lean / supervised {flop_ratio:.2f}")
    if {"lean", "published"} <= flops.keys():
        print(f"FLOPs: published / lean {flops['published'] / flops['lean']:.2f}")
    for name in lean:
        same = name.replace("lean", "supervised")
        if same in results:
            # 3.9: what MCL costs in supervised steps by FLOPs, were its rate the supervised step's
            share = 3.9 * results[same]["seconds"] / results[name]["seconds"]
            print(f"{share:6.2f}  (>= 0.9 in bf16 on a GPU)  images/s of {name} / (supervised images/s / 3.9)")
    for what, above, below, quantity, bound in RATIOS:
        below = best if below == "BEST" else below
        if above in results and below in results:
            bound = bound.replace("FLOPS", f"{1.15 * flop_ratio:.2f}")
            print(f"{results[above][quantity] / results[below][quantity]:6.2f}  ({bound})  {what}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--batch-size", type=int, default=16, help="images a step (N)")
    parser.add_argument(
        "--region-size", type=int, default=7, help="region side in cells; the input side is 32 times this, px"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--warmup", type=int, default=2, help="untimed steps a process: the first ones touch new memory"
    )
    parser.add_argument("--steps", type=int, default=2, help="timed steps a process")
    parser.add_argument("--rounds", type=int, default=2, help="times that every variant has its turn")
    parser.add_argument(
        "--compiled",
        action=argparse.BooleanOptionalAction,
        default=torch.cuda.is_available(),
        help="also the compiled variants: minutes of compilation each on a CPU, and no faster there",
    )
    parser.add_argument("--only", nargs="*", help="names of variants, or parts of names")
    parser.add_argument("--json", type=Path, help="also write all numbers here")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(measure_step(**json.loads(args.worker))))
        return

    names = [name for name in VARIANTS if args.compiled or "compiled" not in name]
    names = [name for name in names if args.device == "cuda" or "fp16" not in name]
    if args.only:  # a variant's whole name means that one alone
        parts = [part for part in args.only if part not in VARIANTS]
        names = [name for name in names if name in args.only or any(part in name for part in parts)]
    network = {"backbone": args.backbone, "region_size": args.region_size}
    flops = {scope: count_flops(scope, network, args.batch_size) for scope in {name.split(",")[0] for name in names}}
    print(
        f"{args.backbone}, {32 * args.region_size} px, N={args.batch_size}, {args.device}, {machine()}, "
        f"{args.rounds} rounds of {args.steps} steps"
    )
    given = {"network": network} | {name: getattr(args, name) for name in ("batch_size", "device", "warmup", "steps")}
    results: dict[str, dict[str, Any]] = {}
    for round_index in range(args.rounds):
        for name in names:
            print(f"  round {round_index + 1}/{args.rounds}: {name} ...", file=sys.stderr, flush=True)
            try:
                found = in_a_process(__file__, {"variant": name, **given})
            except RuntimeError as error:
                print(f"  {name} failed: {error}", file=sys.stderr)
                continue
            entry = results.setdefault(name, {"all_seconds": [], "peak_gib": 0.0, "step_gib": 0.0})
            entry["all_seconds"] += found["seconds"]
            for quantity in ("peak_gib", "step_gib"):
                entry[quantity] = max(entry[quantity], found[quantity])
    rows = []
    for name, entry in results.items():
        entry["seconds"], entry["flops"] = min(entry["all_seconds"]), flops[name.split(",")[0]]
        seconds, gflop = entry["seconds"], entry["flops"] / 1e9
        rows.append([
            name, f"{seconds:.2f}", f"{max(entry['all_seconds']):.2f}", f"{args.batch_size / seconds:.2f}",
            f"{gflop:.0f}", f"{gflop / seconds:.0f}", f"{entry['peak_gib']:.2f}", f"{entry['step_gib']:.2f}",
        ])  # fmt: skip
    print_table(["variant", "s/step", "slowest", "images/s", "GFLOP", "GFLOP/s", "peak GiB", "of step"], rows)
    print_ratios(results, flops)
    if args.json:
        args.json.write_text(json.dumps({"results": results, "flops": flops}, indent=1))


if __name__ == "__main__":
    main()
