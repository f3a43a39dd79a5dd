"""How long data take to open: a made-up COCO file of 118,000 images and 860,000 objects with polygons, against
`json.load` of the same file (no image of it is written, so files are not checked), and a folder of 100,000 images.
Run it on two commits to compare them.

    python scripts/benchmark_annotations.py [--images 118000] [--files 100000] [--repeats 3]
"""

import argparse
import io
import json
import resource
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from measuring import take_turns
from PIL import Image

from mcl_hf.data import open_source
from mcl_hf.detection import open_detection_data

OBJECTS_AN_IMAGE = 860 / 118  # COCO 2017's training images
POINTS = (8, 60)  # of a polygon, from and up to
CROWDS = 0.01


def write_coco(file: Path, num_images: int, seed: int = 0) -> int:
    """Write a COCO JSON like that of COCO 2017, and return its number of objects."""
    numbers = np.random.default_rng(seed)
    counts = numbers.poisson(OBJECTS_AN_IMAGE, num_images)
    images = [{"id": n, "file_name": f"{n:012d}.jpg", "width": 640, "height": 480} for n in range(num_images)]
    annotations = []
    for image, count in enumerate(counts.tolist()):
        for _ in range(count):
            x, y, w, h = (numbers.uniform(0, 1, 4) * [500, 350, 130, 120] + [0, 0, 5, 5]).round(2).tolist()
            points = numbers.uniform(0, 1, (int(numbers.integers(*POINTS)), 2)) * [w, h] + [x, y]
            annotation = {
                "id": len(annotations) + 1, "image_id": image, "category_id": int(numbers.integers(1, 81)),
                "bbox": [x, y, w, h], "area": round(w * h / 2, 4), "iscrowd": 0,
                "segmentation": [points.round(2).ravel().tolist()],
            }  # fmt: skip
            if numbers.random() < CROWDS:
                runs = numbers.integers(1, 1000, 300)
                runs = [*runs.tolist(), 640 * 480 - int(runs.sum())]
                annotation |= {"iscrowd": 1, "segmentation": {"size": [480, 640], "counts": runs}}
            annotations.append(annotation)
    categories = [{"id": n, "name": f"class {n}"} for n in range(1, 81)]
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return len(annotations)


def write_folder(folder: Path, count: int, in_each: int = 1000) -> None:
    """Write very small JPEGs, a thousand a folder, as classes."""
    packed = io.BytesIO()
    Image.new("RGB", (8, 8)).save(packed, "JPEG")
    for number in range(count):
        file = folder / f"class {number // in_each}" / f"{number:07d}.jpg"
        if number % in_each == 0:
            file.parent.mkdir(parents=True)
        file.write_bytes(packed.getvalue())


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--images", type=int, default=118_000, help="images of the made-up file; 0: none")
    parser.add_argument("--files", type=int, default=100_000, help="images of the folder; 0: none")
    parser.add_argument("--repeats", type=int, default=3, help="the shortest of so many is printed")
    options = parser.parse_args(argv)
    if options.files:
        with tempfile.TemporaryDirectory() as folder:
            write_folder(Path(folder), options.files)
            taken = take_turns({"opened": lambda: open_source(folder)}, options.repeats, warmup=0)
        print(f"folder of {options.files} images, open_source {min(taken['opened']):.2f} s")
    if not options.images:
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "instances_train.json"
        objects = write_coco(file, options.images)
        print(f"{options.images} images, {objects} objects, {file.stat().st_size / 1e6:.0f} MB")
        runs = {
            "json.load": lambda: json.loads(file.read_bytes()),
            "opened": lambda: open_detection_data(file, images=folder, check_files=False),
        }
        reference, opened = map(min, take_turns(runs, options.repeats, warmup=0).values())
    print(f"json.load {reference:.2f} s, open_detection_data {opened:.2f} s, ratio {opened / reference:.2f}")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB, json.load included")


if __name__ == "__main__":
    main()
