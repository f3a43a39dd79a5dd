"""`mcl-hf show montages`: the first batch of a run, as the model would see it, without training anything."""

from pathlib import Path

import torch

from mcl_hf.cli.command import save_picture
from mcl_hf.cli.pretrain import build_parser, read_arguments
from mcl_hf.data import ViewLoader, open_source
from mcl_hf.models.montage import MontageLayout, draw_montages
from mcl_hf.training.step import counter_seed
from mcl_hf.viz import montage_picture

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
    parser.add_argument("--out", metavar="FILE", type=Path, default=Path("montages.png"), help="picture to write")
    namespace = parser.parse_args(argv)
    arguments = read_arguments(namespace)
    config = arguments.model_config()
    batch_size, _ = arguments.batch_sizes(world_size=1)
    names = ("image_column", "label_column", "group_column", "split", "streaming")
    source = open_source(arguments.data, **{name: getattr(arguments, name) for name in names})
    print(source.description)
    loader = ViewLoader(
        source,
        view_size=config.image_size,
        ratios=config.montage_ratios,
        batch_size=min(batch_size, len(source)),
        seed=arguments.seed,
        view_rendering=arguments.view_rendering,
        sides=1 if arguments.objective == "supervised" else 2,
        num_channels=config.num_channels,
        max_broken=arguments.max_broken,
    )
    batch = next(iter(loader))
    layout = MontageLayout.of(len(batch.sample_ids), config.montage_ratios, config.montage_fractions)
    montages = [
        draw_montages(layout, torch.Generator().manual_seed(counter_seed("montage", arguments.seed, 0, 0, side)))
        for side in (0, 1)
    ]
    picture = montage_picture(batch.views_a, batch.views_b, montages[0], montages[1], config.montage_ratios)
    save_picture(picture, namespace.out)
