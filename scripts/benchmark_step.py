"""Time and memory of one pre-training step, as ratios measured in one run.

    python scripts/benchmark_step.py                      # ResNet-50, 224 px, N = 16: about 25 minutes on two CPU cores
    python scripts/benchmark_step.py --rounds 1 --warmup 1 --steps 2                  # the same in about 12 minutes
    python scripts/benchmark_step.py --device cuda --batch-size 256

A step is forward, backward, LARS and EMA (the supervised step: forward, backward, LARS). Every variant runs in a
process of its own, since peak memory never falls again within one; "peak GiB" is the whole process, "of step" leaves
out what the imports took. The variants take turns for `--rounds` rounds, so that a machine that slows down slows all of
them, and ratios are formed from each variant's fastest step.

`published` computes FPN, head and target everywhere, as the published code; `lean` only where the loss reads them;
`supervised` is a plain timm classifier on the same N images. Where a step goes: `profile_step.py`.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from step_variants import VARIANTS, Variant, print_ratios

from mcl_hf import MCLConfig, MCLForPreTraining
from mcl_hf.engine.arithmetic import set_arithmetic
from mcl_hf.engine.compile_parts import compile_parts
from mcl_hf.engine.optim import LARS, is_excluded
from mcl_hf.models import recompute_activations


def build_step(variant: Variant, args: argparse.Namespace, device: str) -> tuple[Any, nn.Module]:
    """A function that runs one training step, and the model it trains."""
    memory_format = torch.channels_last if variant.channels_last else torch.contiguous_format
    side, n = 32 * args.region_size, args.batch_size
    generator = torch.Generator().manual_seed(0)
    if variant.scope == "supervised":
        model = timm.create_model(args.backbone, num_classes=1000)
        images = torch.randn(n, 3, side, side, generator=generator)
        labels = torch.randint(0, 1000, (n,), generator=generator)
    else:
        config = MCLConfig(
            backbone=args.backbone,
            region_scope=variant.scope,
            region_size=args.region_size,
            queue_size=variant.queue,
        )
        model = MCLForPreTraining(config)
        views = {
            f"views_{name}": [
                torch.randn(n, 3, side // ratio, side // ratio, generator=generator).to(device)
                for ratio in config.montage_ratios
            ]
            for name in "ab"
        }
        montages = {f"montage_{name}": model.draw_montages(n, generator) for name in "ab"}
    model = model.to(device, memory_format=memory_format).train()
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    optimizer = LARS(
        [
            {"params": [p for name, p in named if not is_excluded(name, p, args.backbone)]},
            {
                "params": [p for name, p in named if is_excluded(name, p, args.backbone)],
                "weight_decay": 0.0,
                "adapt": False,
            },
        ],
        lr=0.1,
        weight_decay=1e-5,
    )
    if variant.recompute:
        recompute_activations(model.mcl.backbone)
    if variant.compile and variant.scope == "supervised":  # timm's plain ResNet
        model.compile()
    elif variant.compile:
        compile_parts(model)
    if variant.scope == "supervised":
        images = images.to(device, memory_format=memory_format)
        labels = labels.to(device)

    dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[variant.precision]
    scaler = torch.amp.GradScaler(device, enabled=variant.precision == "fp16")

    def losses() -> Any:
        """The losses to back-propagate, one after the other."""
        if variant.scope == "supervised":
            yield F.cross_entropy(model(images), labels)
        elif variant.in_turn:
            keys = model.compute_keys(**views, **montages)
            for name in "ab":
                yield model(**views, **montages, keys=keys, sides=(name,)).loss
        else:
            yield model(**views, **montages).loss

    def step() -> None:
        remaining = losses()
        while True:
            with nullcontext() if dtype is None else torch.autocast(device, dtype=dtype):
                loss = next(remaining, None)
            if loss is None:
                break
            scaler.scale(loss).backward()
            del loss  # frees the side's activations before the next side
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        if variant.scope != "supervised":
            model.update_target(0.99)
        if device == "cuda":
            torch.cuda.synchronize()

    return step, model


def count_flops(variant: Variant, args: argparse.Namespace) -> int:
    """Floating-point operations of forward and backward, counted on the meta device (2 a multiply-add)."""
    with torch.device("meta"):
        step, _ = build_step(Variant(variant.scope), args, "meta")
    counter = FlopCounterMode(display=False)
    with counter:
        step()
    return counter.get_total_flops()


def run_worker(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Time one variant in this process."""
    set_arithmetic(torch.device(args.device), VARIANTS[name].tf32, fixed_shapes=True)
    torch.manual_seed(0)
    imported = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    step, _ = build_step(VARIANTS[name], args, args.device)
    seconds = []
    for index in range(args.warmup + args.steps):
        start = time.perf_counter()
        step()
        if index >= args.warmup:
            seconds.append(time.perf_counter() - start)
    if args.device == "cuda":
        peak, imported = torch.cuda.max_memory_allocated(), 0
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "peak_gib": peak / 2**30, "step_gib": (peak - imported) / 2**30}


def in_subprocess(worker: str, argv: list[str]) -> dict[str, Any]:
    """Run this script as a worker and read its last line."""
    command = [sys.executable, __file__, "--worker", worker, *argv]
    finished = subprocess.run(command, capture_output=True, text=True)
    if finished.returncode:
        return {"failed": (finished.stderr.strip().splitlines() or [f"exit {finished.returncode}"])[-1]}
    return json.loads(finished.stdout.strip().splitlines()[-1])


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
        print(json.dumps(run_worker(args.worker, args)))
        return

    argv = ["--backbone", args.backbone, "--device", args.device]
    for name in ("batch_size", "region_size", "warmup", "steps"):
        argv += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    argv += ["--compiled" if args.compiled else "--no-compiled"]
    names = [name for name, variant in VARIANTS.items() if args.compiled or not variant.compile]
    names = [name for name in names if args.device == "cuda" or VARIANTS[name].precision != "fp16"]
    if args.only:  # a variant's whole name means that one alone
        parts = [part for part in args.only if part not in VARIANTS]
        names = [name for name in names if name in args.only or any(part in name for part in parts)]
    flops = {scope: count_flops(Variant(scope), args) for scope in {VARIANTS[name].scope for name in names}}
    print(
        f"{args.backbone}, {32 * args.region_size} px, N={args.batch_size}, {args.device}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads, {platform.machine()}, {args.rounds} rounds of {args.steps} steps"
    )
    results: dict[str, dict[str, Any]] = {}
    for round_index in range(args.rounds):
        for name in names:
            print(f"  round {round_index + 1}/{args.rounds}: {name} ...", file=sys.stderr, flush=True)
            found = in_subprocess(name, argv)
            if "failed" in found:
                print(f"  {name} failed: {found['failed']}", file=sys.stderr)
                continue
            entry = results.setdefault(name, {"all_seconds": [], "peak_gib": 0.0, "step_gib": 0.0})
            entry["all_seconds"] += found["seconds"]
            for quantity in ("peak_gib", "step_gib"):
                entry[quantity] = max(entry[quantity], found[quantity])
    for name, entry in results.items():
        entry["seconds"] = min(entry["all_seconds"])
        entry["flops"] = flops[VARIANTS[name].scope]

    titles = ("s/step", "slowest", "images/s", "GFLOP", "GFLOP/s", "peak GiB", "of step")
    print(f"\n{'variant':42} " + " ".join(f"{title:>8}" for title in titles))
    for name, entry in results.items():
        seconds, gflop = entry["seconds"], entry["flops"] / 1e9
        print(
            f"{name:42} {seconds:8.2f} {max(entry['all_seconds']):8.2f} {args.batch_size / seconds:8.2f} {gflop:8.0f} "
            f"{gflop / seconds:8.0f} {entry['peak_gib']:8.2f} {entry['step_gib']:8.2f}"
        )
    print_ratios(results, flops)
    if args.json:
        args.json.write_text(json.dumps({"results": results, "flops": flops}, indent=1))


if __name__ == "__main__":
    main()
