"""Where a pre-training step goes: milliseconds, GFLOP and GFLOP/s of each of its parts, and what is left over.

    python scripts/profile_step.py                                    # ResNet-50, 224 px, N = 16, lean, fp32
    python scripts/profile_step.py --network half-resnet10 --batch-size 128 --precision bf16
    python scripts/profile_step.py --scope published --device cuda --json profile.json

Each part runs alone on the tensors that it gets within a step, forward and backward apart, in turns with the whole step
for `--rounds` rounds; the figures are medians. "rest" is the whole step less the sum of its parts: what lies between
them, such as copies, Python, and caches that a part alone finds warm.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measuring import machine, print_table, take_turns
from torch import Tensor
from training_step import TrainingStep, Variant

from mcl_hf.comparison.flops import counting_flops
from mcl_hf.engine.arithmetic import set_arithmetic
from mcl_hf.models import assemble_batch

NETWORKS: dict[str, dict[str, Any]] = {
    "resnet50": {"backbone": "resnet50"},
    "resnet18": {"backbone": "resnet18", "fpn_channels": 128, "hidden_dim": 1024, "embedding_dim": 128},
    # of evaluation/deeppcb/plan.yaml: what two cores can train
    "half-resnet10": {
        "backbone": "resnet18",
        "backbone_kwargs": {"layers": [1, 1, 1, 1], "channels": [32, 64, 128, 256]},
        "fpn_channels": 64, "region_size": 2, "region_convs": 2, "hidden_dim": 256, "embedding_dim": 64,
        "montage_ratios": [1, 2, 4], "montage_fractions": [1, 1 / 4, 1 / 16], "level_weights": [1 / 2, 1 / 4, 1 / 4],
    },
}  # fmt: skip


Part = tuple[Callable[[], Any], bool, int]
"""Forward, whether it has a backward pass, times a step."""


def parts_of(step: TrainingStep) -> dict[str, Part]:
    """The parts of one step by name, each as a function that can run again and again."""
    model, mcl = step.model, step.model.mcl
    views, montage = step.inputs["views_a"], step.inputs["montage_a"]
    layout = model.layout(len(views[0]))
    images = assemble_batch(views, montage, layout.ratios)
    lean = mcl.config.region_scope == "lean"
    with step.autocast():
        maps = [level.detach().requires_grad_() for level in mcl.backbone_maps(images)]
        reads = dict(zip(mcl.config.level_maps, layout.slices, strict=True)) if lean else None
        pyramid = mcl.fpn(maps, reads=reads)
        read = {index: pyramid[index].detach().requires_grad_() for index in mcl.config.level_maps}
        regions = [level.detach().float().requires_grad_() for level in mcl.embed_tiles(images, layout)]
        queries = [p(r).detach().requires_grad_() for p, r in zip(model.predictors, regions, strict=True)]
        keys = model.compute_keys(**step.inputs)
    cells = [torch.arange(layout.num_images, device=step.device), *montage]
    target_layout = layout.only_level_0() if lean else layout
    target_images = images[: layout.num_images] if lean else images
    levels = {
        f"backbone, level {level} (r = {layout.ratios[level]})": (lambda own=images[part]: mcl.backbone_maps(own))
        for level, part in enumerate(layout.slices)
    }
    trained: dict[str, Callable[[], Any]] = {
        **levels,
        "FPN": lambda: mcl.fpn(maps, reads=reads),
        "region head": lambda: [mcl.region_head(read[index]) for index in mcl.config.level_maps],
        "predictors": lambda: [p(r) for p, r in zip(model.predictors, regions, strict=True)],
        "contrast": lambda: (
            model.contrast(queries, cells, keys.embeddings["b"], keys.present["b"], None, "b").level_losses
        ),
    }
    run_target = torch.no_grad()(lambda: model.target.embed_tiles(target_images, target_layout))
    return {
        "montage assembly": (lambda: assemble_batch(views, montage, layout.ratios), False, 2),
        **{name: (forward, True, 2) for name, forward in trained.items()},
        "target network": (run_target, False, 2),
        "optimizer": (step.optimizer.step, False, 1),
        "moving average": (lambda: model.update_target(0.99), False, 1),
    }


def passes(part: Part, step: TrainingStep) -> tuple[Callable[[], None], Callable[[], None]]:
    """Forward and backward of a part, to be called in this order; the second frees what the first has made."""
    roots: list[Tensor] = []

    def forward() -> None:
        with step.autocast():
            output = part[0]()
        found = [output] if isinstance(output, Tensor) else output or []
        roots.extend(tensor for tensor in found if isinstance(tensor, Tensor) and tensor.requires_grad)

    def backward() -> None:
        torch.autograd.backward(roots, [torch.ones_like(root) for root in roots])
        roots.clear()

    return forward, backward


def measure(step: TrainingStep, rounds: int) -> list[dict[str, Any]]:
    """A row for each part, the rest and the whole step; milliseconds a step."""
    parts = parts_of(step)
    runs: dict[str, Callable[[], None]] = {}
    flops: dict[str, int] = {}
    for name, part in parts.items():
        forward, backward = passes(part, step)
        runs[f"{name}, forward"] = forward
        if part[1]:
            runs[f"{name}, backward"] = backward
        with counting_flops() as counter:
            forward()
            backward()
        flops[name] = counter.get_total_flops() * part[2]
    seconds = take_turns({**runs, "step": step}, rounds, alternate=False)
    milliseconds = {name: 1000 * statistics.median(taken) for name, taken in seconds.items()}
    rows = []
    for name, (_, _, times) in parts.items():
        ahead, back = (times * milliseconds.get(f"{name}, {way}", 0.0) for way in ("forward", "backward"))
        rows.append({"part": name, "forward_ms": ahead, "backward_ms": back, "gflop": flops[name] / 1e9})
    whole = milliseconds["step"]
    used = sum(row["forward_ms"] + row["backward_ms"] for row in rows)
    gflop = sum(row["gflop"] for row in rows)
    rows.append({"part": "rest", "forward_ms": whole - used, "backward_ms": 0.0, "gflop": 0.0})
    return [*rows, {"part": "step", "forward_ms": whole, "backward_ms": 0.0, "gflop": gflop}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=list(NETWORKS), default="resnet50")
    parser.add_argument("--scope", choices=["lean", "published"], default="lean")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--optimizer", choices=["lars", "adamw"], default="lars")
    parser.add_argument("--batch-size", type=int, default=16, help="images a step (N)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    args = parser.parse_args()
    set_arithmetic(torch.device(args.device), tf32=True, fixed_shapes=True)
    torch.manual_seed(0)
    variant = Variant(f"{args.scope}, channels last, {args.precision}")
    rows = measure(
        TrainingStep(variant, NETWORKS[args.network], args.batch_size, args.device, args.optimizer), args.rounds
    )
    print(
        f"{args.network}, {args.scope}, {args.precision}, N={args.batch_size}, {args.device}, {machine()}, "
        f"medians of {args.rounds} rounds"
    )
    cells = []
    for row in rows:
        milliseconds = row["forward_ms"] + row["backward_ms"]
        cells.append([
            row["part"], f"{row['forward_ms']:.1f}", f"{row['backward_ms']:.1f}",
            f"{milliseconds / rows[-1]['forward_ms']:.1%}", f"{row['gflop']:.1f}",
            f"{1000 * row['gflop'] / milliseconds:.0f}" if row["gflop"] else "",
        ])  # fmt: skip
    print_table(["part", "forward ms", "backward ms", "share", "GFLOP", "GFLOP/s"], cells)
    if args.json:
        options = {name: str(value) for name, value in vars(args).items()}
        args.json.write_text(json.dumps({"options": options, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
