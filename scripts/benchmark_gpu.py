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
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmark_detector import build_runs
from benchmark_step import measure_step
from measuring import in_a_process, take_turns
from training_step import TrainingStep, Variant

from mcl_hf.data import open_source
from mcl_hf.data.stage_times import time_stages
from mcl_hf.engine.arithmetic import set_arithmetic
from mcl_hf.hub.markdown import bullets, table

ROOT = Path(__file__).resolve().parents[1]
IMAGENET, EPOCHS = 1_281_167, 100
ROUNDS, BACKBONES = 3, ("resnet50", "resnet18")
TINY = {"fpn_channels": 16, "region_convs": 1, "hidden_dim": 64, "embedding_dim": 16}  # of a network to try the course
BF16, FP32 = "lean, channels last, bf16", "lean, channels last"
COMPARED = ("supervised, channels last, bf16", BF16, "published, channels last, bf16")
ONCE = (FP32, "lean, channels last, bf16, compiled", "lean, channels last, bf16, in turn", "supervised, channels last")


# ---- workers: one measurement a process ------------------------------------------------------------------------------


def count_waits(network: dict[str, Any], n: int, device: str) -> dict[str, Any]:
    """Waits of one step for the device, each with the line that it happens in."""
    set_arithmetic(torch.device(device), tf32=True, fixed_shapes=True)
    step = TrainingStep(Variant(f"{BF16}, queue of 1024"), network, n, device)
    step()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
        step()
    lines = [f"{Path(one.filename).name}:{one.lineno}" for one in said if "synchroniz" in str(one.message)]
    return {"waits": len(lines), "lines": sorted(set(lines))}


def compare_detectors(**given: Any) -> dict[str, Any]:
    """Seconds of ours and of torchvision's detector, in turns."""
    torch.set_flush_denormal(True)
    with tempfile.TemporaryDirectory() as folder:
        runs = build_runs(argparse.Namespace(**given), Path(folder))
    return {quantity: take_turns(both, ROUNDS) for quantity, both in runs.items()}


def prepare_data(images: int, view_size: int) -> dict[str, Any]:
    """Images a second that one core turns into their views, with all of the work and with crops only."""
    source = open_source("photos")
    files = [source.sample(index) for index in range(images)]
    times = [time_stages(files, view_size=view_size) for _ in range(ROUNDS)]
    crops = [one.num_images / (one.seconds["decode"] + one.seconds["crop"]) for one in times]
    return {
        "images_per_second": [one.images_per_second for one in times], "crops_per_second": crops,
        "images": "the embedded photos of 208 px; larger ones decode more slowly (benchmark_data.py)",
    }  # fmt: skip


WORKERS: dict[str, Callable[..., dict[str, Any]]] = {
    "step": measure_step, "waits": count_waits, "detector": compare_detectors, "data": prepare_data,
}  # fmt: skip


# ---- the course ------------------------------------------------------------------------------------------------------


def run_course(args: argparse.Namespace) -> dict[str, Any]:
    """Run workers until the time is over, and keep what they find."""
    began, left_out = time.monotonic(), []
    backbones, n, region_size, steps = (("resnet10t",), 4, 2, (1, 2)) if args.tiny else (BACKBONES, 128, 7, (5, 8))
    network = {"region_size": region_size, **(TINY if args.tiny else {})}
    rows: dict[tuple[str, str, int], dict[str, Any]] = {}

    def measure(worker: str, name: str, **given: Any) -> dict[str, Any] | None:
        """What a worker finds; None where it failed, ran out of memory, or there was no time left for it."""
        remaining = 60 * args.minutes - (time.monotonic() - began)
        if remaining < 5:
            left_out.append(f"{name}: no time left")
            return None
        print(f"  {name} ...", file=sys.stderr, flush=True)
        if args.tiny:  # starting a process would take longer than the measurement; its memory means nothing
            return WORKERS[worker](**given)
        try:
            return in_a_process(__file__, {"worker": worker, **given}, timeout=remaining)
        except RuntimeError as error:
            left_out.append(f"{name}: {error}")
            return None

    def take_steps(backbone: str, variant: str, n: int) -> bool:
        given = {"network": network | {"backbone": backbone}, "batch_size": n, "device": args.device}
        name = f"{backbone}, {variant}, N={n}"
        found = measure("step", name, variant=variant, warmup=steps[0], steps=steps[1], **given)
        if found:
            new = {"backbone": backbone, "variant": variant, "n": n, "seconds": [], "peak_gib": found["peak_gib"]}
            rows.setdefault((backbone, variant, n), new)["seconds"] += found["seconds"]
        return found is not None

    for backbone in backbones:
        for variant in COMPARED * (ROUNDS if backbone == "resnet50" else 1) + ONCE:
            if not (args.tiny and "compiled" in variant):
                take_steps(backbone, variant, n)
    first, view = backbones[0], 32 * region_size
    sizes = dict(zip(("rois", "side", "fpn_channels"), (16, 128, 32) if args.tiny else (512, 768, 256), strict=True))
    exported = "resnet18" if args.tiny else first  # to torchvision
    given = {"detector": "mask_rcnn", "backbone": exported, "batch_size": 2, "device": args.device, **sizes}
    more = {
        "waits": measure("waits", "waits of a step", network=network | {"backbone": first}, n=n, device=args.device),
        "detector": measure("detector", "Mask R-CNN", **given),
        "data": measure("data", "views of one core", images=4 if args.tiny else 60, view_size=view),
    }
    size = 2 * n
    while take_steps(first, BF16, size) and not args.tiny:  # until memory ends
        size *= 2
    return {
        "card": torch.cuda.get_device_name() if args.device == "cuda" else "CPU", "torch": torch.__version__,
        "cuda": torch.version.cuda, "cores": os.cpu_count(), "rounds": ROUNDS, "view": view,
        "command": " ".join(["python scripts/benchmark_gpu.py", *sys.argv[1:]]), "price": args.price,
        "steps": list(rows.values()), **more, "left_out": left_out, "minutes": (time.monotonic() - began) / 60,
    }  # fmt: skip


def as_markdown(found: dict[str, Any]) -> str:
    """The same for reading."""
    cells, rate, lines = [], {}, []
    for row in found["steps"]:
        rates = sorted(row["n"] / seconds for seconds in row["seconds"])
        rate[row["backbone"], row["variant"], row["n"]] = middle = statistics.median(rates)
        spread = f"{middle:.1f} ({rates[0]:.1f} to {rates[-1]:.1f})"
        cells.append([row["backbone"], row["variant"], str(row["n"]), spread, f"{row['peak_gib']:.2f}"])
    for (backbone, variant, n), fast in rate.items():
        supervised, _, published = (rate.get((backbone, other, n)) for other in COMPARED)
        if variant == BF16 and supervised:
            lines.append(f"{backbone}, N = {n}: lean costs {supervised / fast:.2f} supervised steps (4.0 by FLOPs)")
        if variant == BF16 and published:
            lines.append(f"{backbone}, N = {n}: lean is {fast / published:.2f} times as fast as the published scope")
    paper = found["steps"][0]["backbone"] if found["steps"] else ""
    lean = max((value for (backbone, variant, _), value in rate.items() if backbone == paper and "lean" in variant),
               default=None)  # fmt: skip
    if lean:
        hours = EPOCHS * IMAGENET / lean / 3600
        cost = f", {hours * found['price']:.0f} at {found['price']:g} an hour" if found["price"] else ""
        lines.append(
            f"100 epochs of ImageNet with {paper} at the fastest lean rate: {hours:.0f} hours of this card{cost}"
        )
    for key, words in (("images_per_second", "all of the views"), ("crops_per_second", "--augment-on device")):
        if found["data"] and lean:
            one = statistics.median(found["data"][key])
            lines.append(f"data, {words}: {one:.0f} images/s a core, so {lean / one:.0f} cores feed the card")
    if found["waits"]:
        lines.append(f"waits of a step for the device: {found['waits']['waits']} {found['waits']['lines'] or ''}")
    for quantity, seconds in (found["detector"] or {}).items():
        ours, theirs = min(seconds["ours"]), min(seconds["torchvision"])
        lines.append(f"Mask R-CNN, {quantity}: {ours:.3f} s, torchvision {theirs:.3f} s, ratio {ours / theirs:.2f}")
    lines += [f"left out: {line}" for line in found["left_out"]]
    titles = ["network", "step", "N", "images/s, median (least to most)", "peak GiB"]
    return (
        f"# {found['card']}\n\n`{found['command']}`, torch {found['torch']}, CUDA {found['cuda']}, views of "
        f"{found['view']} px, {found['minutes']:.1f} minutes.\n\n{table(titles, cells, texts=2)}\n\n{bullets(lines)}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--minutes", type=float, default=8.5)
    parser.add_argument("--price", type=float, help="of an hour of the card, in any currency")
    parser.add_argument("--output-dir", type=Path, default=ROOT / "evaluation" / "gpu")
    parser.add_argument("--tiny", action="store_true", help="a small network and few images, to try the course")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        given = json.loads(args.worker)
        print(json.dumps(WORKERS[given.pop("worker")](**given)))
        return
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU here: --device cpu --tiny tries the course")
    found = run_course(args)
    name = "".join(letter if letter.isalnum() else "-" for letter in found["card"]).strip("-").lower()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    (args.output_dir / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (args.output_dir / f"{name}.md").write_text(as_markdown(found), encoding="utf-8")
    print(as_markdown(found))


if __name__ == "__main__":
    main()
