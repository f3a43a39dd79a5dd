"""BCCD as `plan.yaml` wants it, with COCO JSON; and, halved, as the embedded annotated data, `--data bccd-mini`.

    git clone https://github.com/Shenggan/BCCD_Dataset
    python evaluation/bccd/prepare.py BCCD_Dataset bccd
    python evaluation/bccd/prepare.py BCCD_Dataset bccd_mini --factor 2     # what lies in mcl_hf/data/bccd_mini

364 pictures of 640 x 480 px (MIT licence) with boxes of three classes of blood cells, which are three sizes: platelets
(median side 39 px), red (103) and white cells (190). Splits are BCCD's own, 205 / 87 / 72. Unlabelled tiles need no
preparing: `tile` in the plan cuts them from the training pictures.

Smaller pictures average factor x factor px and are saved anew as JPEG, boxes shrink with them. Equal input gives equal
bytes with one release of Pillow (bccd-mini was made with 12.3.0).
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mcl_hf.detection import open_detection_data
from mcl_hf.errors import InputError

QUALITY = 70
SPLITS = ("train", "val", "test")


def write_coco(source: Path, out: Path, factor: int) -> None:
    """Pictures, COCO JSON and licence of a clone in a new folder.

    Args:
        source: the clone.
        out: `out/SPLIT/*.jpg` and `out/annotations/instances_SPLIT.json` are written.
        factor: pictures and boxes are so many times smaller; 1 copies the files as they are.

    Raises:
        InputError: no clone, or a folder that is there.
    """
    if not (source / "BCCD" / "ImageSets").is_dir():
        raise InputError(f"{source} is no clone of BCCD_Dataset: BCCD/ImageSets is not there")
    if out.exists():
        raise InputError(f"{out} is there already: name a new folder")
    (out / "annotations").mkdir(parents=True)
    shutil.copyfile(source / "LICENSE", out / "LICENSE")
    for split in SPLITS:
        data = open_detection_data(source / "BCCD", split=split)
        (out / split).mkdir()
        images, annotations = [], []
        for number, item in enumerate(data, 1):
            name = f"{Path(item.name).stem}.jpg"
            size = {"width": item.width // factor, "height": item.height // factor}
            images.append({"id": number, "file_name": name, **size})
            if factor == 1:
                (out / split / name).write_bytes(item.image_bytes())
            else:
                picture = Image.fromarray(item.decode()).reduce(factor)
                picture.save(out / split / name, quality=QUALITY, optimize=True)
            for (x0, y0, x1, y1), label in zip((item.boxes / factor).tolist(), item.labels.tolist(), strict=True):
                width, height = x1 - x0, y1 - y0
                annotation = {"id": len(annotations) + 1, "image_id": number, "category_id": label + 1}
                annotations.append(annotation | {"bbox": [x0, y0, width, height], "area": width * height, "iscrowd": 0})
        categories = [{"id": index + 1, "name": name} for index, name in data.id2label.items()]
        content = {"images": images, "annotations": annotations, "categories": categories}
        text = json.dumps(content, separators=(",", ":"))
        (out / "annotations" / f"instances_{split}.json").write_text(text, encoding="utf-8")
        print(f"{split}: {len(images)} pictures, {len(annotations)} boxes")


def main() -> None:
    """Write all of it into a new folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path, help="a clone of BCCD_Dataset")
    parser.add_argument("out", type=Path, help="a new folder")
    parser.add_argument(
        "--factor", type=int, choices=[1, 2, 4], default=1, help="pictures are so many times smaller (1)"
    )
    arguments = parser.parse_args()
    try:
        write_coco(arguments.source, arguments.out, arguments.factor)
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
