"""`mcl-hf probe NETWORK [NETWORK ...]`: what region features know, as a table, JSON and a picture."""

import json
from importlib.util import find_spec
from pathlib import Path

from ..errors import InputError
from .command import Parser, check_can_be_written, command, import_torch, save_picture, say, unused

EXAMPLES = """
Nothing is trained but a linear classifier on fixed features. Annotated images (--probe-data) are asked for classes,
plain ones (--data) for finding an image again; give either or both.

examples:
  mcl-hf probe my-run random timm:resnet50.a1_in1k --probe-data coco/annotations/instances_val2017.json
  mcl-hf probe runs/own/checkpoints/step-00010000 runs/own --data my_images/
"""


def build_parser() -> Parser:
    """The command's options."""
    parser = Parser(
        prog="mcl-hf probe",
        description="Measure what region features know without training them: classes of annotated objects by "
        "nearest neighbours and a linear classifier, and finding an image again in another view and at another size.",
        epilog=EXAMPLES,
    )
    parser.add_argument(
        "networks", nargs="+", metavar="NETWORK",
        help="folder of a run, checkpoint or finished model, Hub repository, timm:NAME, or random",
    )  # fmt: skip
    parser.add_argument(
        "--probe-data", metavar="TEXT",
        help="images with boxes and classes: COCO JSON or folder, VOC, Cityscapes; parquet, folder or Hub data set "
        "with columns image and objects",
    )  # fmt: skip
    parser.add_argument("--data", nargs="+", metavar="TEXT", help="images without labels, as for pretrain")
    parser.add_argument(
        "--probe-images", type=int, default=200, metavar="N", help="images read of each data set (default: 200)"
    )
    parser.add_argument("--image-folder", type=Path, metavar="DIR", help="images of a COCO JSON, where not beside it")
    parser.add_argument("--image-column", metavar="NAME", help="column of the images, where there are several")
    parser.add_argument("--split", default="train", metavar="NAME", help="part of the data (default: train)")
    parser.add_argument(
        "--allow-outside-paths",
        action="store_true",
        help="read images outside of the data's folder where paths in the data say so",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of halves, crops and random weights")
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto", help="auto takes the accelerator, if any")
    parser.add_argument(
        "--out", type=Path, metavar="FILE",
        help="all numbers as JSON; a picture goes beside it as .png (default: probe.json, or a free name beside it)",
    )  # fmt: skip
    return parser


@command
def main(argv: list[str]) -> None:
    """Run the command."""
    arguments = build_parser().parse_args(argv)
    arguments.out = arguments.out or unused(Path("probe.json"))
    if arguments.out.suffix == ".png":
        raise InputError(f"--out {arguments.out} names the JSON file; the picture goes beside it: end it in .json")
    check_can_be_written(arguments.out)
    import_torch()
    import torch

    from ..probe.report import result_notes, result_picture, result_rows
    from ..probe.run_probe import probe_checkpoint
    from .show_run import format_table

    # A torch that was built for GPUs names one where there is none.
    auto = arguments.device == "auto" and torch.accelerator.is_available()
    accelerator = torch.accelerator.current_accelerator() if auto else None
    results = probe_checkpoint(
        *arguments.networks,
        probe_data=arguments.probe_data,
        data=arguments.data,
        num_images=arguments.probe_images,
        seed=arguments.seed,
        split=arguments.split,
        image_folder=arguments.image_folder,
        image_column=arguments.image_column,
        allow_outside_paths=arguments.allow_outside_paths,
        device="cpu" if accelerator is None else accelerator.type,
        on_network=say,
    )
    say(format_table(result_rows(results)))
    say("\n".join(result_notes(results)))
    try:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps([result.to_dict() for result in results], indent=1)
        arguments.out.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"--out {arguments.out} cannot be written: {error.strerror or error}") from error
    say(f"numbers: {arguments.out}")
    if find_spec("matplotlib") is None:
        say("the picture is drawn with matplotlib: pip install 'mcl_hf[viz]'")
    else:
        save_picture(result_picture(results), arguments.out.with_suffix(".png"))
