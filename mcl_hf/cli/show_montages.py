"""`mcl-hf show montages`: the first batch of a run, as the model would see it, without training anything."""

from pathlib import Path

from .command import check_picture, import_torch, save_picture, say, unused
from .pretrain import build_parser, read_arguments
from .show_data import READ

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
        "mcl-hf show montages",
        "Draw the first montages that a run would see. Options of pretrain are understood, too.",
        EXAMPLES,
        {*READ, "batch_size", "global_batch_size"} - {"probe_data"},
    )
    parser.add_argument(
        "--out", metavar="FILE", type=Path, help="picture to write (default: montages.png, or a free name beside it)"
    )
    namespace = parser.parse_args(argv)
    out = namespace.out or unused(Path("montages.png"))
    check_picture(out)
    arguments = read_arguments(namespace)
    batch_size, _ = arguments.batch_sizes(world_size=1)

    import_torch()
    from ..pretraining.run_data import open_data
    from .data_sheet import first_montages

    source = open_data(arguments)
    say(source.description)
    _, picture = first_montages(arguments, source, min(batch_size, len(source)))
    save_picture(picture, out)
