"""`mcl-hf show montages`: the first batch of a run, as the model would see it, without training anything."""

from pathlib import Path

import torch
from PIL import Image

from ..data import ImageSource, ViewBatch
from ..models.montage import MontageLayout, draw_montages
from ..plain_text import plain_text
from ..pretraining.arguments import PretrainArguments
from ..pretraining.run_data import open_data, open_loader
from ..pretraining.step import counter_seed
from ..viz import montage_picture
from .command import check_picture, save_picture, say, unused
from .pretrain import build_parser, read_arguments

EXAMPLES = """
examples:
  mcl-hf show montages --recipe demo
  mcl-hf show montages --recipe mcl-r18-small --data my_images/ --out montages.png
"""


def run(argv: list[str]) -> None:
    """Draw step 1 of the run that the options describe (rank 0), and write the picture.

    Raises:
        InputError: Options or data that such a run would refuse too.
    """
    parser = build_parser(
        "mcl-hf show montages", "Draw the first montages that a run with these options would see.", EXAMPLES
    )
    parser.add_argument(
        "--out", metavar="FILE", type=Path, help="picture to write (default: montages.png, or a free name beside it)"
    )
    namespace = parser.parse_args(argv)
    out = namespace.out or unused(Path("montages.png"))
    check_picture(out)
    arguments = read_arguments(namespace)
    batch_size, _ = arguments.batch_sizes(world_size=1)
    source = open_data(arguments)
    say(source.description)
    batch, picture = first_montages(arguments, source, min(batch_size, len(source)))
    for line in batch.broken:
        say(plain_text(f"broken: {line}"))
    save_picture(picture, out)


def first_montages(arguments: PretrainArguments, source: ImageSource, count: int) -> tuple[ViewBatch, Image.Image]:
    """The first ``count`` images of a run with their views, and the picture of their montages.

    Raises:
        InputError: Settings that cannot work, or images that cannot be read.
    """
    config = arguments.model_config()
    batch = next(iter(open_loader(arguments, config, source, count))).augmented(torch.Tensor.contiguous)
    layout = MontageLayout.of(count, config.montage_ratios, config.montage_fractions)
    montages = [
        draw_montages(layout, torch.Generator().manual_seed(counter_seed("montage", arguments.seed, 0, 0, side)))
        for side in (0, 1)
    ]
    return batch, montage_picture(batch.views_a, batch.views_b, montages[0], montages[1], config.montage_ratios)
