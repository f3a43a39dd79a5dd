"""Draw the picture at the top of the README: montages of one batch, and the pyramid level each is read from.

    python scripts/draw_method_picture.py examples/pictures/method.png

Only embedded photos in the public domain or under CC0 are shown.
"""

import argparse
import sys
from pathlib import Path

import pyarrow.parquet as parquet
import torch
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from torchvision.transforms.v2 import functional as tv

from mcl_hf.data import decode_image
from mcl_hf.models import assemble_montage

PHOTOS = Path(__file__).resolve().parents[1] / "mcl_hf" / "data" / "photos"
SHOWN = (
    *("kingfisher", "red_panda", "windmill3", "fish9", "greatWall", "owl", "giraffe", "parthenon"),
    *("scissors1", "chelsea", "sheep", "tajMahal", "crab", "petra", "coffee", "jaguar"),
)
CAPTION = (
    "Every tile is contrasted with the full view of the same image in an EMA target network; "
    "all other images are negatives."
)
SIDE, GAP, MARGIN, HEADER, FOOTER = 224, 36, 24, 74, 92
COLOURS = ("#1f6f8b", "#3d8361", "#c26a1b", "#9c3848")


def free_photos() -> list[torch.Tensor]:
    """One crop of each shown photo, `(3, 224, 224)` uint8, of those in the public domain or under CC0."""
    found: dict[str, torch.Tensor] = {}
    for shard in sorted(PHOTOS.glob("*.parquet")):
        for row in parquet.read_table(shard).to_pylist():
            name = row["source_image"]
            if name in SHOWN and name not in found and row["licence"] in ("CC0-1.0", "Public domain"):
                pixels = torch.from_numpy(decode_image(row["image"]["bytes"]).copy()).permute(2, 0, 1)
                found[name] = tv.resize(pixels, [SIDE, SIDE], antialias=True)
    return [found[name] for name in SHOWN if name in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    photos = torch.stack(free_photos())
    generator = torch.Generator().manual_seed(4)
    width = 2 * MARGIN + 4 * SIDE + 3 * GAP
    picture = Image.new("RGB", (width, HEADER + SIDE + FOOTER), "white")
    draw = ImageDraw.Draw(picture)
    font, small = ImageFont.load_default(17), ImageFont.load_default(14)
    texts = (
        ("224 px views", "P5, stride 32"),
        ("112 px tiles", "P4, stride 16"),
        ("56 px tiles", "P3, stride 8"),
        ("28 px tiles", "P2, stride 4"),
    )
    for level, (ratio, colour, (what, where)) in enumerate(zip((1, 2, 4, 8), COLOURS, texts, strict=True)):
        tiles = tv.resize(photos, [SIDE // ratio, SIDE // ratio], antialias=True)
        cells = torch.randperm(ratio**2, generator=generator) % len(photos)
        montage = assemble_montage(tiles, cells, ratio)[0].permute(1, 2, 0).numpy()
        left = MARGIN + level * (SIDE + GAP)
        draw.text((left, 14), f"level {level}: {what}", fill=colour, font=font)
        how = "one full view" if ratio == 1 else f"{ratio} x {ratio} tiles in one montage"
        draw.text((left, 40), how, fill="#444", font=small)
        picture.paste(Image.fromarray(montage), (left, HEADER))
        step = SIDE // ratio
        for position in range(0, SIDE + 1, step):
            draw.line([(left + position, HEADER), (left + position, HEADER + SIDE)], fill=colour, width=2)
            draw.line([(left, HEADER + position), (left + SIDE, HEADER + position)], fill=colour, width=2)
        draw.text((left, HEADER + SIDE + 10), f"read from {where}", fill=colour, font=font)
        draw.text((left, HEADER + SIDE + 34), "each tile is 7 x 7 cells there", fill="#444", font=small)
    draw.text((MARGIN, HEADER + SIDE + 64), CAPTION, fill="#222", font=small)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    picture.quantize(256, method=Image.Quantize.MEDIANCUT).save(args.out, optimize=True)
    print(args.out, picture.size, f"{args.out.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
