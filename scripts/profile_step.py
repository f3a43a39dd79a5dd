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
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mcl_hf import MCLConfig, MCLForPreTraining
from mcl_hf.engine.arithmetic import set_arithmetic
from mcl_hf.engine.optim import build_optimizer
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


class Profile:
    """Parts of one step, each as a function that can run again and again."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.device, n = args.device, args.batch_size
        config = MCLConfig(**NETWORKS[args.network], region_scope=args.scope)
        self.model = MCLForPreTraining(config).to(self.device, memory_format=torch.channels_last).train()
        self.optimizer = build_optimizer(self.model, args.optimizer, 1e-3, 1e-5)
        dtype = {"fp32": None, "bf16": torch.bfloat16}[args.precision]
        self.autocast = lambda: nullcontext() if dtype is None else torch.autocast(self.device, dtype=dtype)
        generator = torch.Generator().manual_seed(0)
        side = config.image_size
        self.views = [
            torch.randn(n, config.num_channels, side // ratio, side // ratio, generator=generator).to(
                self.device, memory_format=torch.channels_last
            )
            for ratio in config.montage_ratios
        ]
        self.montage = [level.to(self.device) for level in self.model.draw_montages(n, generator)]
        self.layout = self.model.layout(n)

    def step(self) -> None:
        """The whole: both sides, optimizer, moving average."""
        with self.autocast():
            loss = self.model(self.views, self.views, self.montage, self.montage).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.model.update_target(0.99)

    def parts(self) -> dict[str, tuple[Callable[[], Any], bool, int]]:
        """Name -> (forward, whether it has a backward pass, times a step)."""
        model, layout, mcl = self.model, self.layout, self.model.mcl
        images = assemble_batch(self.views, self.montage, layout.ratios)
        with self.autocast():
            maps = [level.detach().requires_grad_() for level in mcl.backbone_maps(images)]
            reads = dict(zip(mcl.config.level_maps, layout.slices, strict=True))
            lean = mcl.config.region_scope == "lean"
            run_fpn = (lambda: mcl.fpn(maps, reads=reads)) if lean else (lambda: mcl.fpn(maps))
            pyramid = run_fpn()
            read = {index: pyramid[index].detach().requires_grad_() for index in mcl.config.level_maps}
            regions = [level.detach().float().requires_grad_() for level in mcl.embed_tiles(images, layout)]
            queries = [p(r).detach().requires_grad_() for p, r in zip(model.predictors, regions, strict=True)]
            keys = model.compute_keys(self.views, self.views, self.montage, self.montage)
        cells = [torch.arange(layout.num_images, device=self.device), *self.montage]
        target_layout = layout.only_level_0() if lean else layout
        target_images = images[: layout.num_images] if lean else images
        parts: dict[str, tuple[Callable[[], Any], bool, int]] = {
            "montage assembly": (lambda: assemble_batch(self.views, self.montage, layout.ratios), False, 2)
        }
        for level, part in enumerate(layout.slices):
            own = images[part]
            parts[f"backbone, level {level} (r = {layout.ratios[level]})"] = (
                lambda own=own: mcl.backbone_maps(own), True, 2,
            )  # fmt: skip
        parts["FPN"] = (run_fpn, True, 2)
        parts["region head"] = (lambda: [mcl.region_head(read[index]) for index in mcl.config.level_maps], True, 2)
        parts["predictors"] = (lambda: [p(r) for p, r in zip(model.predictors, regions, strict=True)], True, 2)
        parts["contrast"] = (
            lambda: model.contrast(queries, cells, keys.embeddings["b"], keys.present["b"], None, "b").level_losses,
            True, 2,
        )  # fmt: skip
        parts["target network"] = (
            torch.no_grad()(lambda: model.target.embed_tiles(target_images, target_layout)), False, 2,
        )  # fmt: skip
        return parts


def flatten(output: Any) -> list[Tensor]:
    """Tensors of an output that gradients can come from."""
    found = [output] if isinstance(output, Tensor) else [t for t in output if isinstance(t, Tensor)]
    return [tensor for tensor in found if tensor.requires_grad]


def timed(function: Callable[[], Any], device: str) -> tuple[float, Any]:
    """Seconds of a call, and what it returned."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def measure(profile: Profile, rounds: int) -> list[dict[str, Any]]:
    """A row for each part, the rest and the whole step; milliseconds a step."""
    parts = profile.parts()
    seconds: dict[str, list[tuple[float, float]]] = {
        name: [] for name in [*parts, "optimizer", "moving average", "step"]
    }
    flops: dict[str, int] = {}
    for index in range(rounds + 1):  # the first round warms up, and counts operations
        for name, (forward, has_backward, times) in parts.items():
            with FlopCounterMode(display=False) if index == 0 else nullcontext() as counter:
                with profile.autocast():
                    ahead, output = timed(forward, profile.device)
                back = 0.0
                if has_backward:
                    roots = flatten(output)
                    ones = [torch.ones_like(root) for root in roots]
                    back, _ = timed(lambda roots=roots, ones=ones: torch.autograd.backward(roots, ones), profile.device)
            if index == 0:
                flops[name] = counter.get_total_flops() * times
            else:
                seconds[name].append((ahead * times, back * times))
        optimizing, _ = timed(profile.optimizer.step, profile.device)
        profile.optimizer.zero_grad(set_to_none=True)
        averaging, _ = timed(lambda: profile.model.update_target(0.99), profile.device)
        whole, _ = timed(profile.step, profile.device)
        if index:
            seconds["optimizer"].append((optimizing, 0.0))
            seconds["moving average"].append((averaging, 0.0))
            seconds["step"].append((whole, 0.0))
    rows = []
    for name, values in seconds.items():
        ahead, back = (1000 * statistics.median(column) for column in zip(*values, strict=True))
        rows.append({"part": name, "forward_ms": ahead, "backward_ms": back, "gflop": flops.get(name, 0) / 1e9})
    whole = rows.pop()
    used = sum(row["forward_ms"] + row["backward_ms"] for row in rows)
    rows.append({"part": "rest", "forward_ms": whole["forward_ms"] - used, "backward_ms": 0.0, "gflop": 0.0})
    whole["gflop"] = sum(row["gflop"] for row in rows)
    return [*rows, whole]


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
    rows = measure(Profile(args), args.rounds)
    total = rows[-1]["forward_ms"]
    print(
        f"{args.network}, {args.scope}, {args.precision}, N={args.batch_size}, {args.device}, "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, medians of {args.rounds} rounds"
    )
    print(f"{'part':32} {'forward ms':>11} {'backward ms':>12} {'share':>7} {'GFLOP':>8} {'GFLOP/s':>8}")
    for row in rows:
        milliseconds = row["forward_ms"] + row["backward_ms"]
        rate = f"{1000 * row['gflop'] / milliseconds:8.0f}" if row["gflop"] else f"{'':8}"
        print(
            f"{row['part']:32} {row['forward_ms']:11.1f} {row['backward_ms']:12.1f} {milliseconds / total:7.1%} "
            f"{row['gflop']:8.1f} {rate}"
        )
    if args.json:
        args.json.write_text(
            json.dumps({"options": {k: str(v) for k, v in vars(args).items()}, "rows": rows}, indent=1)
        )


if __name__ == "__main__":
    main()
