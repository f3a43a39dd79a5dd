"""BCCD as `plan.yaml` wants it: its pictures as they are, with COCO JSON.

    git clone https://github.com/Shenggan/BCCD_Dataset
    python evaluation/bccd/prepare.py BCCD_Dataset bccd

364 pictures of 640 x 480 px (MIT licence) with boxes of three classes of blood cells, which are three sizes: platelets
(median side 39 px), red (103) and white cells (190). Splits are BCCD's own, 205 / 87 / 72. Unlabelled tiles need no
preparing: `tile` in the plan cuts them from the training pictures.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from make_bccd_mini import write_coco  # which puts the project into the path

from mcl_hf.errors import InputError


def main() -> None:
    """Write all of it into a new folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path, help="a clone of BCCD_Dataset")
    parser.add_argument("out", type=Path, help="a new folder")
    arguments = parser.parse_args()
    try:
        write_coco(arguments.source, arguments.out, factor=1)
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
