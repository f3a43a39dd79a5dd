"""What `mcl-hf show data` and `show montages` draw: a run's first batch, images that look the same, and its speed."""

import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..data import BrokenImage, ImageSource, ViewBatch, open_image
from ..data.sources.near_duplicates import NearDuplicates, find_near_duplicates
from ..data.stage_times import STAGES, time_stages
from ..errors import InputError
from ..finetuning.view_scale import about_scale
from ..models.montage import MontageLayout, draw_montages
from ..plain_text import plain_text
from ..pretraining.arguments import PretrainArguments
from ..pretraining.run_data import open_data, open_loader
from ..pretraining.step import counter_seed
from ..viz.contact_sheet import SheetImage, duplicates_picture, stack_pictures, views_picture
from ..viz.montage_grid import montage_picture
from .command import save_picture, say

GROUPS_SHOWN, IMAGES_SHOWN, IMAGES_TIMED = 5, 8, 32
LARGE_SIDE = 800
"""Longer side in px, on average, from which on `mcl-hf pack` with its 512 px would save much."""


def draw_sheet(
    arguments: PretrainArguments, images: int, compare: int, out: Path, detector_size: int | None = None
) -> None:
    """Print what was found in the data of a run, write the sheet and say where it is; refuses what a run would refuse.
    Draws so many `images`, and looks for near-duplicates among `compare` images; a detector will see images with a
    shorter side of `detector_size` px, None: as the rules of auto have it."""
    source = open_data(arguments)
    say(source.description)
    channels = arguments.model_config().num_channels
    batch, montages = first_montages(arguments, source, min(images, len(source)))
    parts = [views_picture(_originals(source, batch.sample_ids.tolist(), channels), batch.views_a, batch.views_b)]
    if compare and channels not in (1, 3):
        say(f"near-duplicates are looked for among images of 1 or 3 channels, not {channels}")
    elif compare:
        sample = _sample(source, compare, arguments.seed)
        found = find_near_duplicates(source, sample, num_workers=arguments.num_workers)
        say(_near_duplicates(found, source, arguments.group_column, arguments.objective != "supervised"))
        if found.groups:
            shown = found.groups[:GROUPS_SHOWN]
            groups = _count(len(found.groups), "group")
            title = f"{found.images} of {found.looked_at} images look like another one: {groups}"
            originals = [_originals(source, group[:IMAGES_SHOWN], channels) for group in shown]
            parts.append(duplicates_picture(originals, [len(group) for group in shown], title, columns=IMAGES_SHOWN))
    scale = about_scale(arguments, source, detector_size)
    if scale is not None:
        say(scale)
    say(_speed(arguments, source))
    save_picture(stack_pictures([*parts, montages]), out)


def first_montages(arguments: PretrainArguments, source: ImageSource, count: int) -> tuple[ViewBatch, Image.Image]:
    """The first `count` images of a run with their views, and the picture of their montages; broken ones are named."""
    config = arguments.model_config()
    batch = next(iter(open_loader(arguments, config, source, count))).augmented(torch.Tensor.contiguous)
    layout = MontageLayout.of(count, config.montage_ratios, config.montage_fractions)
    montages = [
        draw_montages(layout, torch.Generator().manual_seed(counter_seed("montage", arguments.seed, 0, 0, side)))
        for side in (0, 1)
    ]
    for line in batch.broken:
        say(plain_text(f"broken: {line}"))
    return batch, montage_picture(batch.views_a, batch.views_b, montages[0], montages[1], config.montage_ratios)


def _originals(source: ImageSource, indices: list[int], num_channels: int) -> list[SheetImage]:
    """The images at `indices`, which have been decoded before, in colour; of other than 1 or 3 channels, the first
    channel in gray."""
    plain = num_channels in (1, 3)
    channels = 3 if plain else num_channels
    return [
        SheetImage(source.sample(index).open(channels).decode(channels)[:, :, : 3 if plain else 1], source.name(index))
        for index in indices
    ]


def _sample(source: ImageSource, count: int, seed: int) -> list[int]:
    """All indices, or those at the first `count` positions of an order, each once (a mix repeats some), ascending."""
    if count >= len(source):
        return list(range(len(source)))
    return np.unique(source.order(seed, images_per_step=1).index(np.arange(count))).tolist()


def _near_duplicates(found: NearDuplicates, source: ImageSource, group_column: str | None, negatives: bool) -> str:
    """The lines about images that look the same, and, where images are each other's `negatives`, what to do."""
    part = "" if found.looked_at + len(found.broken) == len(source) else f" (of {len(source)}; --compare N looks at N)"
    lines = [
        f"near-duplicates: {found.images} of {found.looked_at} images{part} look like another one, "
        f"in {_count(len(found.groups), 'group')}"
    ]
    if found.pairs_in_one_group:
        lines.append(f"  {_count(found.pairs_in_one_group, 'more pair')} within one group of '{group_column}': fine")
    for group in found.groups[:GROUPS_SHOWN]:
        names = [source.name(index) for index in group[:IMAGES_SHOWN]]
        more = [f"and {len(group) - len(names)} more"] if len(group) > len(names) else []
        lines.append(plain_text(f"  {', '.join(names + more)}"))
    if len(found.groups) > GROUPS_SHOWN:
        lines.append(f"  and {_count(len(found.groups) - GROUPS_SHOWN, 'more group')}")
    if found.groups and negatives:
        lines.append(
            f"  As negatives these would be pushed apart ({_count(found.pairs, 'pair')}) although they show the same. "
            "Remove all but one of each group,\n  or name a column that is equal within it (the folder, the video, the "
            "patient) with --group-column."
        )
    lines += [plain_text(f"broken: {line}") for line in found.broken[:GROUPS_SHOWN]]
    if len(found.broken) > GROUPS_SHOWN:
        lines.append(f"broken: {_count(len(found.broken) - GROUPS_SHOWN, 'more image')}")
    return "\n".join(lines)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _speed(arguments: PretrainArguments, source: ImageSource) -> str:
    """Read and render some images: a table of how long each stage took, and what to do where decoding leads it."""
    config = arguments.model_config()
    files, longer_sides, reading = [], [], 0.0  # longer sides in px, seconds of all reading
    for index in _sample(source, IMAGES_TIMED, arguments.seed):
        start = time.perf_counter()
        try:
            sample = source.sample(index)
            reading += time.perf_counter() - start
            opened = open_image(sample.bytes_, config.num_channels)
            opened.decode(config.num_channels)
        except BrokenImage:
            continue  # named above, where near-duplicates are looked for, and in every run
        longer_sides.append(max(opened.width, opened.height))
        files.append(sample)
    if not files:
        raise InputError(
            f"none of the first {IMAGES_TIMED} images of the order can be decoded: are these images at all?"
        )
    times = time_stages(
        files, view_size=config.image_size, ratios=config.montage_ratios,
        sides=1 if arguments.objective == "supervised" else 2, num_channels=config.num_channels, seed=arguments.seed,
    )  # fmt: skip
    total, count = sum(times.seconds.values()), len(files)
    mean_side = sum(longer_sides) / count
    kilobytes = sum(len(sample.bytes_) for sample in files) / count / 1e3
    lines = [
        f"speed of one core, {count} images, longer side {mean_side:.0f} px and {kilobytes:.0f} kB on average:",
        f"  {'read':<8}{1e3 * reading / count:8.2f} ms/image, wall clock; not part of the sum",
    ]
    for stage in STAGES:
        share = times.seconds[stage] / total
        lines.append(f"  {stage:<8}{times.milliseconds(stage):8.2f} ms/image {share:6.0%}")
    lines.append(f"  {'sum':<8}{1e3 * total / count:8.2f} ms/image: {times.images_per_second:.0f} images/s per core")
    slowest = max(times.seconds, key=times.seconds.__getitem__)
    if slowest == "decode" and mean_side > LARGE_SIDE:
        lines.append("  Decoding takes longest, and the images are large: mcl-hf pack makes them small once.")
    return "\n".join(lines)
