"""All that a GPU is wanted for, by one command of under nine minutes, as one JSON and one table for each card.

    python scripts/benchmark_gpu.py                                   # writes evaluation/gpu/CARD.json and CARD.md
    python scripts/benchmark_gpu.py --price 2.5                       # also the cost of the paper's recipe, a GPU hour
    python scripts/benchmark_gpu.py --device cpu --tiny --output-dir /tmp/gpu          # the same course in a minute

In this order, each in a process of its own, until `--minutes` are over (what is then left out is named):

* steps of ResNet-50 and ResNet-18: lean and published scope, bf16 and fp32, compiled or not, timm's supervised step
  beside them; what is to be compared takes turns for three rounds;
* the batch: N doubled from 64 until memory ends;
* times that a step waits for the device without being asked to (`torch.cuda.set_sync_debug_mode`);
* a detector's training step and inference against torchvision's;
* what one core prepares of the views, and so how many cores feed the card;
* hours, and cost, of the paper's 100 epochs of ImageNet.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmark_detector import build_runs
from benchmark_step import build_step, run_worker
from step_variants import VARIANTS

from mcl_hf.data import open_source
from mcl_hf.data.stage_times import time_stages
from mcl_hf.engine.arithmetic import set_arithmetic

ROOT = Path(__file__).resolve().parents[1]
IMAGENET, EPOCHS = 1_281_167, 100
ROUNDS = 3
BF16, FP32 = "lean, channels last, bf16", "lean, channels last"
COMPARED = ("supervised, channels last, bf16", BF16, "published, channels last, bf16")
ONCE = (FP32, "lean, channels last, bf16, compiled", "lean, channels last, bf16, in turn", "supervised, channels last")


# ---- workers: one measurement a process ------------------------------------------------------------------------------


def step_worker(spec: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Seconds and peak memory of a variant's steps."""
    args.backbone, args.batch_size = spec["backbone"], spec["n"]
    found = run_worker(spec["variant"], args)
    return {"seconds": found["seconds"], "peak_gib": found["peak_gib"]}


def waits_worker(spec: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Waits of one step for the device, each with the line that it happens in."""
    args.backbone, args.batch_size = spec["backbone"], spec["n"]
    set_arithmetic(torch.device(args.device), tf32=True, fixed_shapes=True)
    step, _ = build_step(replace(VARIANTS[BF16], queue=1024), args, args.device)
    step()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if args.device == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
        step()
    lines = [f"{Path(one.filename).name}:{one.lineno}" for one in said if "synchroniz" in str(one.message)]
    return {"waits": len(lines), "lines": sorted(set(lines))}


def detector_worker(spec: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of ours and of torchvision's detector, in turns."""
    own = argparse.Namespace(**spec, device=args.device)
    torch.set_flush_denormal(True)
    found: dict[str, Any] = {}
    for quantity, runs in build_runs(own).items():
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(ROUNDS + 1):
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                if args.device == "cuda":
                    torch.cuda.synchronize()
                seconds[name] += [time.perf_counter() - start] if turn else []
        found[quantity] = seconds
    return found


def data_worker(spec: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Images a second that one core turns into their views, with all of the work and with crops only."""
    source = open_source("photos")
    files = [source.sample(index) for index in range(spec["images"])]
    times = [time_stages(files, view_size=32 * args.region_size) for _ in range(ROUNDS)]
    crops = [one.num_images / (one.seconds["decode"] + one.seconds["crop"]) for one in times]
    return {
        "images_per_second": [one.images_per_second for one in times], "crops_per_second": crops,
        "images": "the embedded photos of 208 px; larger ones decode more slowly (benchmark_data.py)",
    }  # fmt: skip


WORKERS = {"step": step_worker, "waits": waits_worker, "detector": detector_worker, "data": data_worker}


# ---- the course ------------------------------------------------------------------------------------------------------


class Course:
    """Runs workers until the time is over, and keeps what they found."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.began = args, time.monotonic()
        self.left_out: list[str] = []

    def measure(self, worker: str, name: str, **spec: Any) -> dict[str, Any] | None:
        """What a worker finds; None where it failed, ran out of memory, or there was no time left for it."""
        remaining = 60 * self.args.minutes - (time.monotonic() - self.began)
        if remaining < 5:
            self.left_out.append(f"{name}: no time left")
            return None
        print(f"  {name} ...", file=sys.stderr, flush=True)
        if self.args.tiny:  # starting a process would take longer than the measurement; its memory means nothing
            return WORKERS[worker](spec, argparse.Namespace(**vars(self.args)))
        command = [sys.executable, __file__, "--worker", json.dumps({"worker": worker, **spec}),
                   "--device", self.args.device]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=remaining)
        except subprocess.TimeoutExpired:
            self.left_out.append(f"{name}: not done when the time was over")
            return None
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1][:200]
            self.left_out.append(f"{name}: {reason}")
            return None
        return json.loads(done.stdout.strip().splitlines()[-1])  # type: ignore[no-any-return]

    def steps(self, backbone: str, variant: str, n: int) -> dict[str, Any] | None:
        found = self.measure("step", f"{backbone}, {variant}, N={n}", backbone=backbone, variant=variant, n=n)
        return found and {"backbone": backbone, "variant": variant, "n": n, **found}


def run_course(args: argparse.Namespace) -> dict[str, Any]:
    course = Course(args)
    backbones, n = (("resnet18",), 4) if args.tiny else (("resnet50", "resnet18"), 128)
    rows: list[dict[str, Any]] = []
    for backbone in backbones:
        compared: dict[str, dict[str, Any]] = {}
        for _ in range(ROUNDS if backbone == "resnet50" else 1):
            for variant in COMPARED:
                found = course.steps(backbone, variant, n)
                if found and variant in compared:
                    compared[variant]["seconds"] += found["seconds"]
                elif found:
                    compared[variant] = found
        rows += compared.values()
        rows += [found for variant in ONCE if not (args.tiny and "compiled" in variant)
                 for found in [course.steps(backbone, variant, n)] if found]  # fmt: skip
    more = {
        "waits": course.measure("waits", "waits of a step", backbone=backbones[0], n=n),
        "detector": course.measure(
            "detector", "Mask R-CNN", detector="mask_rcnn", backbone=backbones[0], batch_size=2,
            **({"rois": 16, "side": 128, "fpn_channels": 32} if args.tiny
               else {"rois": 512, "side": 768, "fpn_channels": 256}),
        ),
        "data": course.measure("data", "views of one core", images=4 if args.tiny else 60),
    }  # fmt: skip
    size = n
    while True:  # until memory ends
        size *= 2
        found = course.steps(backbones[0], BF16, size)
        if not found or args.tiny:
            rows += [found] if found else []
            break
        rows.append(found)
    return {
        "card": torch.cuda.get_device_name() if args.device == "cuda" else "CPU", "torch": torch.__version__,
        "cuda": torch.version.cuda, "cores": os.cpu_count(), "rounds": ROUNDS, "view": 32 * args.region_size,
        "command": " ".join(["python scripts/benchmark_gpu.py", *sys.argv[1:]]), "price": args.price,
        "steps": rows, **more, "left_out": course.left_out, "minutes": (time.monotonic() - course.began) / 60,
    }  # fmt: skip


def table(found: dict[str, Any]) -> str:
    """The same for reading."""
    lines = [f"# {found['card']}", "", f"`{found['command']}`, torch {found['torch']}, CUDA {found['cuda']}, views of "
             f"{found['view']} px, {found['minutes']:.1f} minutes.", "",
             "| network | step | N | images/s, median (least to most) | peak GiB |",
             "|---|---|---|---|---|"]  # fmt: skip
    rate = {}
    for row in found["steps"]:
        rates = sorted(row["n"] / seconds for seconds in row["seconds"])
        rate[row["backbone"], row["variant"], row["n"]] = statistics.median(rates)
        lines.append(
            f"| {row['backbone']} | {row['variant']} | {row['n']} | {statistics.median(rates):.1f} "
            f"({rates[0]:.1f} to {rates[-1]:.1f}) | {row['peak_gib']:.2f} |"
        )
    lines.append("")
    for (backbone, variant, n), fast in rate.items():
        other = rate.get((backbone, COMPARED[0], n))
        if variant == BF16 and other:
            lines.append(f"* {backbone}, N = {n}: lean costs {other / fast:.2f} supervised steps (4.0 by FLOPs)")
        published = rate.get((backbone, COMPARED[2], n))
        if variant == BF16 and published:
            lines.append(f"* {backbone}, N = {n}: lean is {fast / published:.2f} times as fast as the published scope")
    paper = found["steps"][0]["backbone"] if found["steps"] else ""
    lean = max((value for (backbone, variant, _), value in rate.items() if backbone == paper and "lean" in variant),
               default=None)  # fmt: skip
    if lean:
        hours = EPOCHS * IMAGENET / lean / 3600
        cost = f", {hours * found['price']:.0f} at {found['price']:g} an hour" if found["price"] else ""
        lines.append(
            f"* 100 epochs of ImageNet with {paper} at the fastest lean rate: {hours:.0f} hours of this card{cost}"
        )
    for key, words in (("images_per_second", "all of the views"), ("crops_per_second", "--augment-on device")):
        if found["data"] and lean:
            one = statistics.median(found["data"][key])
            lines.append(f"* data, {words}: {one:.0f} images/s a core, so {lean / one:.0f} cores feed the card")
    if found["waits"]:
        lines.append(f"* waits of a step for the device: {found['waits']['waits']} {found['waits']['lines'] or ''}")
    for quantity, seconds in (found["detector"] or {}).items():
        ours, theirs = min(seconds["ours"]), min(seconds["torchvision"])
        lines.append(f"* Mask R-CNN, {quantity}: {ours:.3f} s, torchvision {theirs:.3f} s, ratio {ours / theirs:.2f}")
    lines += [f"* left out: {line}" for line in found["left_out"]]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--minutes", type=float, default=8.5)
    parser.add_argument("--price", type=float, help="of an hour of the card, in any currency")
    parser.add_argument("--output-dir", type=Path, default=ROOT / "evaluation" / "gpu")
    parser.add_argument("--tiny", action="store_true", help="a small network and few images, to try the course")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.region_size, args.warmup, args.steps = (2, 1, 2) if args.tiny else (7, 5, 8)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU here: --device cpu --tiny tries the course")
    if args.worker:
        spec = json.loads(args.worker)
        print(json.dumps(WORKERS[spec.pop("worker")](spec, args)))
        return
    found = run_course(args)
    name = "".join(letter if letter.isalnum() else "-" for letter in found["card"]).strip("-").lower()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    (args.output_dir / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (args.output_dir / f"{name}.md").write_text(table(found), encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
