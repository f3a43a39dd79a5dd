"""How many images a second one core turns into their eight views, against two plain pipelines that do the same.

    python scripts/benchmark_data.py --photos FOLDER [--images 48] [--rounds 5] [--workers]

Prints ratios measured in one run, one thread, the variants taking turns in every round (the median counts). Times are
processor times, so that other programs on the machine disturb them little:

* `torchvision v1 on PIL`: the published way, eight views at 224 px with transforms on PIL images;
* `torchvision v2 on uint8`: the same eight 224 px views from uint8 tensors, one image at a time;
* `torchvision v2, small views`: v2 with the crops resized straight to 224, 112, 56 and 28 px and the blur scaled along;
* `mcl_hf published` and `mcl_hf direct`: the two renderings of this library;
* `mcl_hf crops only`: what is left for the processor with --augment-on device.

--workers adds images a second of the loader with 1 and 2 workers (wall clock: on a quiet machine only) and the memory
of a worker over 10,000 images.

The images are JPEGs of 500x375 px and about 100 kB, cut at start from 30 large photographs of three free wallpaper
packages (2 to 20 megapixels; upsampled small ones would decode too cheaply). FOLDER is searched at any depth for them:

    apt-get download lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 mate-backgrounds plasma-workspace-wallpapers
    for package in *.deb; do dpkg-deb -x "$package" FOLDER; done

Where some are missing, or where FOLDER holds other photographs, what is there is taken, and the output says so. Without
--photos the small photos that come with the package stand in.
"""

import argparse
import io
import itertools
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]  # no types of its own
import torch
from measuring import print_table, take_turns
from PIL import Image, ImageFilter
from torchvision import transforms as v1
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from mcl_hf.data import RawSample, ViewLoader, open_image, open_source, render_views, side_recipes
from mcl_hf.data.stage_times import STAGES, time_stages
from mcl_hf.data.views.render import crop_views

RATIOS = (1, 2, 4, 8)
WIDTH, HEIGHT = 500, 375
TARGET_BYTES = 100_000
PHOTOS = (
    *(f"{name}.jpg" for name in (
        "Dragonfly_by_Bolly", "Bridge_by_Sander_Klootwijk", "Picture_0B_by_freespace", "Wine_by_Jakkub_Mede",
        "aitzgorri_by_Aitzol_Berasategi", "friends_by_Aitzol_Berasategi", "greentock_by_Peter_Nerlich",
        "life_by_Aitzol_Berasategi", "picosdeeuropa_by_Aitzol_Berasategi", "seeding_by_Clements_Engelhardt",
        "sunset_by_Aitzol_Berasategi", "Kleiber_by_Lukas_Baubkus", "Aqua", "Blinds", "Dune", "Garden", "LadyBird",
        "RainDrops", "Storm", "TwoWings", "Wood", "YellowFlower",
    )),
    *(f"{name}/contents/images/2560x1600.jpg" for name in (
        "BytheWater", "ColdRipple", "ColorfulCups", "EveningGlow", "FallenLeaf", "Kite", "OneStandsOut", "Path",
    )),
)  # fmt: skip
"""The stated set: the ends of the photographs' paths in the packages."""
MEMORY_AT = (1_000, 2_000, 5_000, 10_000)


# ---- the two plain pipelines, and ours ------------------------------------------------------------------------------


def pil_blur(picture: Image.Image) -> Image.Image:
    """Gaussian blur of a PIL image with a random sigma, as in the published code."""
    return picture.filter(ImageFilter.GaussianBlur(radius=np.random.uniform(0.1, 2.0)))


def plain_views(version: Any, sizes: Sequence[int], blur: Callable[[int], Any]) -> list[Any]:
    """Views of both sides by torchvision's transforms, `v1` or `v2`; `blur(size)` is that of a view of `size` px."""
    return [
        version.Compose(
            [
                version.RandomResizedCrop(size, scale=(0.2, 1.0)),
                version.RandomHorizontalFlip(),
                version.RandomApply([version.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
                version.RandomGrayscale(p=0.2),
                version.RandomApply([blur(size)], p=blur_probability),
                version.RandomSolarize(128, p=solarise_probability),
            ]
        )
        for blur_probability, solarise_probability in ((1.0, 0.0), (0.1, 0.2))
        for size in sizes
    ]


def tensor_blur(size: int) -> v2.Transform:
    """Scaled to the view; the kernel covers three sigmas."""
    largest = 2.0 * size / 224
    return v2.GaussianBlur(2 * max(1, int(np.ceil(3 * largest))) + 1, (0.1 * size / 224, largest))


def run_v1(files: Sequence[bytes]) -> None:
    pipelines = plain_views(v1, [224] * 4, lambda size: pil_blur)
    for data in files:
        picture = Image.open(io.BytesIO(data)).convert("RGB")
        for pipeline in pipelines:
            v1.functional.pil_to_tensor(pipeline(picture))


def run_v2(files: Sequence[bytes], sizes: Sequence[int]) -> None:
    pipelines = plain_views(v2, sizes, tensor_blur)
    for data in files:
        pixels = decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
        for pipeline in pipelines:
            pipeline(pixels)


def run_library(files: Sequence[bytes], render: Callable[..., Any]) -> None:
    recipes = side_recipes(len(RATIOS), sides=2)
    buffers = [np.empty((3, 224 // ratio, 224 // ratio), np.uint8) for ratio in RATIOS * 2]
    for position, data in enumerate(files):
        views = render(open_image(data), recipes, RATIOS, seed=0, position=position)
        for buffer, view in zip(buffers, views, strict=True):
            np.copyto(buffer, view)


def crops_only(*given: Any, **named: Any) -> Any:
    """What is left for the processor with --augment-on device."""
    return crop_views(*given, **named)[0]


# ---- measuring ------------------------------------------------------------------------------------------------------


def find_photos(folder: Path | None) -> tuple[list[Image.Image], str]:
    """Photographs to cut the test images from, and a line that says which."""
    stated: list[Path] = []
    for name in PHOTOS if folder is not None else ():
        laid_flat = folder / f"{Path(name).parts[0]}.jpg"  # by hand
        stated += [path for path in [*sorted(folder.rglob(name)), laid_flat] if path.is_file()][:1]
    if len(stated) >= len(PHOTOS) / 2:
        photos = [_photo(path.read_bytes()) for path in stated]
        return photos, f"{len(stated)} of the {len(PHOTOS)} photographs of the stated set"
    source = open_source("photos" if folder is None else str(folder))
    photos = [_photo(source.sample(index).bytes_) for index in range(min(len(source), 60))]
    if folder is None:
        return photos, "the embedded 208 px photos, upsampled: they decode too cheaply, give --photos"
    return photos, f"{len(photos)} images of {folder}, which are not the stated set"


def _photo(data: bytes) -> Image.Image:
    return Image.fromarray(open_image(data).decode())


def make_files(photos: Sequence[Image.Image], count: int) -> list[bytes]:
    """`count` JPEGs of 500x375 px: random large crops of the photos, at the quality that comes closest to 100 kB."""
    chooser = random.Random(0)
    files = []
    for number in range(count):
        photo = photos[number % len(photos)]
        scale = chooser.uniform(0.7, 1.0) * min(photo.width / WIDTH, photo.height / HEIGHT)
        width, height = WIDTH * scale, HEIGHT * scale
        left, top = chooser.uniform(0, photo.width - width), chooser.uniform(0, photo.height - height)
        picture = photo.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
        encoded = [_encode(picture, quality) for quality in (70, 80, 88, 93, 96, 98, 99)]
        files.append(min(encoded, key=lambda data: abs(len(data) - TARGET_BYTES)))
    return files


def _encode(picture: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def compare(files: Sequence[bytes], rounds: int) -> None:
    runs = {
        "torchvision v1 on PIL": partial(run_v1, files),
        "torchvision v2 on uint8": partial(run_v2, files, [224] * 4),
        "torchvision v2, small views": partial(run_v2, files, [224 // ratio for ratio in RATIOS]),
        "mcl_hf published": partial(run_library, files, partial(render_views, rendering="published")),
        "mcl_hf direct": partial(run_library, files, partial(render_views, rendering="direct")),
        "mcl_hf crops only": partial(run_library, files, crops_only),
    }
    taken = take_turns(runs, rounds, clock=time.process_time)
    medians = {name: statistics.median(seconds) / len(files) for name, seconds in taken.items()}
    direct = medians["mcl_hf direct"]
    print_table(
        ["one core, one thread", "ms/image", "images/s", "direct is faster by"],
        [[name, f"{1e3 * each:.2f}", f"{1 / each:.1f}", f"{each / direct:.2f}x"] for name, each in medians.items()],
    )


def workers(files: Sequence[bytes], count: int) -> None:
    """Images a second through the loader with 1 and 2 workers, and the memory of one over `count` images."""
    with tempfile.TemporaryDirectory() as folder:
        for number, data in enumerate(files):
            Path(folder, f"{number}.jpg").write_bytes(data)
        source = open_source(folder)
        rates = []
        for num_workers in (1, 2):
            batches = iter(ViewLoader(source, batch_size=16, seed=0, num_workers=num_workers))
            _take(batches, 4 * num_workers)
            steps = 60 * num_workers
            taken = take_turns({"": partial(_take, batches, steps)}, 1, warmup=0)
            rates.append(16 * steps / taken[""][0])
            del batches
        print(f"\nloader: {rates[0]:.1f} images/s with 1 worker, {rates[1]:.1f} with 2: {rates[1] / rates[0]:.2f}x")
        before = set(psutil.Process().children())
        batches = iter(ViewLoader(source, batch_size=16, seed=0, num_workers=1))
        done, seen = 0, []
        for images in sorted({*(at for at in MEMORY_AT if at < count), count}):
            _take(batches, images // 16 - done)
            done = images // 16
            worker = max(set(psutil.Process().children()) - before, key=_resident)
            seen.append(f"{_resident(worker) / 1e6:.0f} MB after {images}")
        print(f"memory of a worker: {', '.join(seen)} images")


def _resident(process: psutil.Process) -> int:
    return process.memory_info().rss


def _take(batches: Iterator[Any], count: int) -> None:
    for _ in itertools.islice(batches, count):
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of large photographs to cut the test images from")
    parser.add_argument("--images", type=int, default=48, help="number of test images (48)")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds over them (5)")
    parser.add_argument("--workers", action="store_true", help="also measure 1 and 2 workers, and memory")
    parser.add_argument("--memory-images", type=int, default=10_000, help="images for the memory line (10000)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    photos, which = find_photos(arguments.photos)
    files = make_files(photos, arguments.images)
    del photos  # workers would count its memory as theirs
    sizes = sorted(len(data) / 1e3 for data in files)
    print(f"test images: {len(files)} JPEGs of {WIDTH}x{HEIGHT} px from {which}")
    print(f"bytes per image: {statistics.mean(sizes):.0f} kB on average, {sizes[0]:.0f} to {sizes[-1]:.0f} kB")
    compare(files, arguments.rounds)
    times = time_stages([RawSample(file) for file in files])
    print("\nstages of direct, ms/image: " + ", ".join(f"{name} {times.milliseconds(name):.2f}" for name in STAGES))
    if arguments.workers:
        workers(files, arguments.memory_images)


if __name__ == "__main__":
    main()
