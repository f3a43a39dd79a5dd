"""`mcl-hf probe NETWORK [NETWORK ...]`: what region features know, as a table, JSON and a picture."""

import json
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from ..engine.options import Options, group, options_class
from ..errors import InputError
from .command import aligned, check_can_be_written, command, import_torch, save_picture, say, unused
from .options import ARGUMENTS, read_options

EXAMPLES = """
Nothing is trained but a linear classifier on fixed features. Annotated images (--probe-data) are asked for classes,
plain ones (--data) for finding an image again; give either or both.

examples:
  mcl-hf probe my-run random timm:resnet50.a1_in1k --probe-data coco/annotations/instances_val2017.json
  mcl-hf probe runs/own/checkpoints/step-00010000 runs/own --data my_images/
"""


_argument, _option = group(ARGUMENTS), group("options of the probe")


@options_class
class ProbeOptions(Options):
    """What the command can be told."""

    networks: list[str] = _argument(
        ..., "folder of a run, checkpoint or finished model, Hub repository, timm:NAME, or random", whole=True
    )
    probe_data: str | None = _option(None, "images with boxes and classes, of any kind that finetune takes")
    data: list[str] | None = _option(None, "images without labels, as for pretrain", whole=True)
    probe_images: int = _option(200, "images read of each data set")
    image_folder: Path | None = _option(None, "images of a COCO JSON, where not beside it")
    image_column: str | None = _option(None, "column of the images, where there are several")
    split: str = _option("train", "part of the data")
    allow_outside_paths: bool = _option(
        False, "read images outside of the data's folder where paths in the data say so"
    )
    seed: int = _option(0, "of halves, crops and random weights")
    device: Literal["auto", "cpu"] = _option("auto", "auto takes the accelerator, if any")
    out: Path | None = _option(
        None, "all numbers as JSON; a picture goes beside it as .png (probe.json, or a free name beside it)"
    )


@command
def main(argv: list[str]) -> None:
    """Run the command."""
    description = (
        "Measure what region features know without training them: classes of annotated objects by nearest neighbours "
        "and a linear classifier, and finding an image again in another view and at another size."
    )
    given = read_options(ProbeOptions, argv, prog="mcl-hf probe", description=description, epilog=EXAMPLES)
    options: dict[str, Any] = asdict(given)
    out = options.pop("out") or unused(Path("probe.json"))
    if out.suffix == ".png":
        raise InputError(f"--out {out} names the JSON file; the picture goes beside it: end it in .json")
    check_can_be_written(out)
    import_torch()
    from ..engine.arithmetic import chosen_device
    from ..probe.report import result_notes, result_picture, result_rows
    from ..probe.run_probe import probe_checkpoint

    options["device"] = chosen_device(options["device"]).type
    networks, num_images = options.pop("networks"), options.pop("probe_images")
    results = probe_checkpoint(*networks, num_images=num_images, on_network=say, **options)
    rows = result_rows(results)
    titles = list(dict.fromkeys(title for row in rows for title in row))
    say(aligned([titles, *([row.get(title, "-") for title in titles] for row in rows)]))
    say("\n".join(result_notes(results)))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps([result.to_dict() for result in results], indent=1) + "\n", encoding="utf-8")
    say(f"numbers: {out}")
    if find_spec("matplotlib") is None:
        say("the picture is drawn with matplotlib: pip install 'mcl_hf[viz]'")
    else:
        save_picture(result_picture(results), out.with_suffix(".png"))
