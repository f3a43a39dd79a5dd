"""DeepPCB as `plan.yaml` wants it: labelled tiles of 320 px as COCO JSON, and unlabelled ones of 96 px as parquet.

    git clone https://github.com/tangsanli5201/DeepPCB
    python evaluation/deeppcb/prepare.py DeepPCB deeppcb

The data (Tang et al., "Online PCB Defect Detector On A New PCB Defect Dataset", arXiv 1902.06197) are under the MIT
licence; their README adds "for research purpose". 1,500 boards of 640 px, each with a template without defects.

    deeppcb/train/, val/, test/                  tiles of 320 px, four a board, as PNG
    deeppcb/annotations/instances_SPLIT.json     their boxes; `board` of an image names its board
    deeppcb/unlabelled/*.parquet                 tiles of 96 px of the training boards and of their templates

Splits: `train` is the official 1,000 boards, `val` the boards of the official test list in `looked_at.txt` (they were
looked at while the design was made, so they can test nothing), `test` the rest of it. Boxes that a tile's border cuts
are clipped to it where at least half of them is left; of the others it is not asked whether they are found (crowds).
"""

import argparse
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

CLASSES = ("open", "short", "mousebite", "spur", "copper", "pin-hole")
TILE, SMALL_TILE = 320, 96
LOOKED_AT = Path(__file__).with_name("looked_at.txt")
_SHARDS = 4


def boards(root: Path, listing: str) -> Iterator[tuple[str, Path, Path, list[list[int]]]]:
    """Name, picture, template and boxes (x1 y1 x2 y2 class, px) of each board of an official list."""
    folder = root / "PCBData"
    for line in (folder / listing).read_text(encoding="utf-8").split("\n"):
        if not line.strip():
            continue
        image, annotation = line.split()
        stem = folder / image.removesuffix(".jpg")
        rows = (folder / annotation).read_text(encoding="utf-8").split("\n")
        boxes = [[int(value) for value in row.replace(",", " ").split()] for row in rows if row.strip()]
        yield stem.name, stem.with_name(f"{stem.name}_test.jpg"), stem.with_name(f"{stem.name}_temp.jpg"), boxes


def boxes_in(tile: tuple[int, int, int, int], boxes: list[list[int]]) -> Iterator[tuple[list[int], int, bool]]:
    """Box (x y w h within the tile, px), class and whether most of it lies outside, of all boxes that touch a tile."""
    left, top, right, bottom = tile
    for x1, y1, x2, y2, label in boxes:
        a, b, c, d = max(x1, left), max(y1, top), min(x2, right), min(y2, bottom)
        if c <= a or d <= b:
            continue
        inside = (c - a) * (d - b) / ((x2 - x1) * (y2 - y1))
        yield [a - left, b - top, c - a, d - b], label, inside < 0.5


def tiles(file: Path, side: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """Left and top border (px) and gray pixels of each whole tile of a picture."""
    with Image.open(file) as opened:
        pixels = np.asarray(opened.convert("L"))
    for top in range(0, pixels.shape[0] - side + 1, side):
        for left in range(0, pixels.shape[1] - side + 1, side):
            yield left, top, pixels[top : top + side, left : left + side]


def write_split(out: Path, split: str, found: list[tuple[str, Path, Path, list[list[int]]]]) -> None:
    """Tiles and COCO JSON of one split."""
    (out / split).mkdir(parents=True)
    images, annotations = [], []
    for name, file, _, boxes in found:
        for left, top, pixels in tiles(file, TILE):
            number, path = len(images) + 1, f"{name}_{left}_{top}.png"
            images.append({"id": number, "file_name": path, "width": TILE, "height": TILE, "board": name})
            Image.fromarray(pixels).save(out / split / path, optimize=True)
            for box, label, crowd in boxes_in((left, top, left + TILE, top + TILE), boxes):
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": number, "category_id": label, "bbox": box,
                     "area": box[2] * box[3], "iscrowd": int(crowd)}
                )  # fmt: skip
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (out / "annotations" / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")
    crowds = sum(annotation["iscrowd"] for annotation in annotations)
    print(f"{split}: {len(found)} boards, {len(images)} tiles, {len(annotations) - crowds} boxes, {crowds} cut ones")


def write_unlabelled(out: Path, found: list[tuple[str, Path, Path, list[list[int]]]]) -> None:
    """Tiles of boards and templates; blank ones are dropped. A group is a place of a board: it and its template."""
    rows: list[dict[str, object]] = []
    blank = 0
    for name, *files, _ in found:
        for kind, file in zip(("test", "temp"), files, strict=True):
            for left, top, pixels in tiles(file, SMALL_TILE):
                bright = float((pixels > 127).mean())
                if min(bright, 1 - bright) < 0.02:
                    blank += 1
                    continue
                packed = io.BytesIO()
                Image.fromarray(pixels).save(packed, "PNG", optimize=True)
                image = {"bytes": packed.getvalue(), "path": f"{name}_{kind}_{left}_{top}.png"}
                rows.append({"image": image, "group": f"{name}_{left}_{top}"})
    order = np.random.default_rng(0).permutation(len(rows))
    (out / "unlabelled").mkdir()
    for shard in range(_SHARDS):
        table = pa.Table.from_pylist([rows[index] for index in order[shard::_SHARDS]])
        pq.write_table(table, out / "unlabelled" / f"tiles-{shard:05d}-of-{_SHARDS:05d}.parquet", row_group_size=1000)
    print(f"unlabelled: {len(rows)} tiles, {blank} blank ones dropped")


def main() -> None:
    """Write all of it into a new folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path, help="a clone of DeepPCB")
    parser.add_argument("out", type=Path, help="a new folder")
    arguments = parser.parse_args()
    if not (arguments.source / "PCBData" / "trainval.txt").is_file():
        parser.error(f"{arguments.source} is no clone of DeepPCB: PCBData/trainval.txt is not there")
    if arguments.out.exists():
        parser.error(f"{arguments.out} is there already: name a new folder")
    (arguments.out / "annotations").mkdir(parents=True)
    looked_at = set(LOOKED_AT.read_text(encoding="utf-8").split())
    train, official_test = (list(boards(arguments.source, name)) for name in ("trainval.txt", "test.txt"))
    write_split(arguments.out, "train", train)
    write_split(arguments.out, "val", [board for board in official_test if board[0] in looked_at])
    write_split(arguments.out, "test", [board for board in official_test if board[0] not in looked_at])
    write_unlabelled(arguments.out, train)


if __name__ == "__main__":
    main()
