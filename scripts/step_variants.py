"""What `benchmark_step.py` measures, and the ratios that the project promises."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Variant:
    """Settings of one measured step."""

    scope: str  # published | lean | supervised
    channels_last: bool = False
    precision: str = "fp32"  # fp32 | bf16 | fp16
    tf32: bool = True  # GPUs only
    queue: int = 0  # past keys kept as negatives
    compile: bool = False
    in_turn: bool = False  # the two sides one after the other: half the activations
    recompute: bool = False  # norms and activations of the backbone are made again in the backward pass


VARIANTS = {
    "published, contiguous": Variant("published", tf32=False),
    "published, channels last": Variant("published", channels_last=True),
    "published, channels last, bf16": Variant("published", channels_last=True, precision="bf16"),
    "lean, contiguous": Variant("lean", tf32=False),
    "lean, channels last": Variant("lean", channels_last=True),
    "lean, channels last, in turn": Variant("lean", channels_last=True, in_turn=True),
    "lean, channels last, recompute": Variant("lean", channels_last=True, recompute=True),
    "lean, channels last, recompute, in turn": Variant("lean", channels_last=True, recompute=True, in_turn=True),
    "lean, channels last, queue of 16384": Variant("lean", channels_last=True, queue=16384),
    "lean, channels last, compiled": Variant("lean", channels_last=True, compile=True),
    "lean, channels last, compiled, in turn": Variant("lean", channels_last=True, compile=True, in_turn=True),
    "lean, channels last, bf16": Variant("lean", channels_last=True, precision="bf16"),
    "lean, channels last, bf16, compiled": Variant("lean", channels_last=True, precision="bf16", compile=True),
    "lean, channels last, bf16, in turn": Variant("lean", channels_last=True, precision="bf16", in_turn=True),
    "supervised, contiguous": Variant("supervised", tf32=False),
    "supervised, channels last": Variant("supervised", channels_last=True),
    "supervised, channels last, compiled": Variant("supervised", channels_last=True, compile=True),
    "supervised, channels last, bf16": Variant("supervised", channels_last=True, precision="bf16"),
    "supervised, channels last, bf16, compiled": Variant(
        "supervised", channels_last=True, precision="bf16", compile=True
    ),
    "lean, channels last, fp16": Variant("lean", channels_last=True, precision="fp16"),
    "supervised, channels last, fp16": Variant("supervised", channels_last=True, precision="fp16"),
}
_PUBLISHED, _LEAN, _SUPERVISED = "published, contiguous", "lean, channels last", "supervised, channels last"
RATIOS = (
    # (what, numerator, denominator, quantity, bound)
    ("lean, best setting, against published as published", _PUBLISHED, "BEST", "seconds", ">= 3.3"),
    ("lean, best setting, against plain fp32", "lean, contiguous", "BEST", "seconds", ">= 1.7 on a GPU"),
    ("lean against published, both contiguous", _PUBLISHED, "lean, contiguous", "seconds", ">= 2.5"),
    ("lean against published, both channels last", "published, channels last", _LEAN, "seconds", ">= 2.5"),
    (
        "lean against published, both channels last and bf16",
        "published, channels last, bf16",
        f"{_LEAN}, bf16",
        "seconds",
        ">= 2.5",
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
    ("lean / supervised, bf16", f"{_LEAN}, bf16", f"{_SUPERVISED}, bf16", "seconds", "<= FLOPS"),
    ("lean / supervised, compiled", f"{_LEAN}, compiled", f"{_SUPERVISED}, compiled", "seconds", "<= FLOPS"),
    (
        "lean / supervised, bf16 and compiled",
        f"{_LEAN}, bf16, compiled",
        f"{_SUPERVISED}, bf16, compiled",
        "seconds",
        "<= FLOPS",
    ),
)


def print_ratios(results: dict[str, dict[str, Any]], flops: dict[str, int]) -> None:
    """The ratios that the project promises, each with its bound."""
    lean = [name for name in results if VARIANTS[name].scope == "lean"]
    best = min(lean, key=lambda name: results[name]["seconds"], default="")
    flop_ratio = flops["lean"] / flops["supervised"] if {"lean", "supervised"} <= flops.keys() else 0.0
    print(f"\nbest lean setting: {best}")
    if flop_ratio:
        print(f"FLOPs: lean / supervised {flop_ratio:.2f}")
    if {"lean", "published"} <= flops.keys():
        print(f"FLOPs: published / lean {flops['published'] / flops['lean']:.2f}")
    for name in results:
        same = name.replace("lean", "supervised")
        if name.startswith("lean") and same in results:
            # 3.9: what MCL costs in supervised steps by FLOPs, were its rate the supervised step's
            share = 3.9 * results[same]["seconds"] / results[name]["seconds"]
            print(f"{share:6.2f}  (>= 0.9 in bf16 on a GPU)  images/s of {name} / (supervised images/s / 3.9)")
    for what, above, below, quantity, bound in RATIOS:
        below = best if below == "BEST" else below
        if above in results and below in results:
            bound = bound.replace("FLOPS", f"{1.15 * flop_ratio:.2f}")
            print(f"{results[above][quantity] / results[below][quantity]:6.2f}  ({bound})  {what}")
