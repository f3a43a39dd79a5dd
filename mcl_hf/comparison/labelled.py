"""The images of a comparison: labelled subsets that are the same for every start, and no test image among the others.

Flow: plan -> **labelled** -> setting (checks), run_job (the images themselves).
"""

import hashlib
import itertools
import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from ..annotations.detection_data import DetectionData, FileImages
from ..annotations.open_data import has_split, list_splits, open_detection_data
from ..data import ImageSource
from ..data.decode import BrokenImage
from ..errors import InputError
from ..files import write_json
from ..finetuning.arguments import load_finetune_arguments
from ..finetuning.data import fingerprint, hold_out, overlaps
from ..new_folder import whole_folder
from .plan import ComparePlan

_READING = ("image_column", "objects_column", "box_format", "skip_broken", "allow_outside_paths")
_SHARD_ROWS = 1000
_SUBSET_STRIDE = 100  # subsets of a seed that no other seed has


@dataclass(frozen=True)
class CompareData:
    """Annotated images of a comparison; `val` and `test` are None where they were not asked for."""

    train: DetectionData  # labelled ones; subsets are drawn of these, by group where they have groups
    val: DetectionData | None  # what learning rates are chosen on
    test: DetectionData | None  # what is asked once per finished job
    held_out: list[str]  # lines about parts that were held out of the labelled images

    @cached_property
    def groups(self) -> np.ndarray:
        """Number of each training image's group, `(N,)`; where none are named, each image is one."""
        if not self.train.groups or None in self.train.groups:
            return np.arange(len(self.train))
        return np.unique([str(group) for group in self.train.groups], return_inverse=True)[1]

    @property
    def most(self) -> int:
        """Labelled images, or groups of them."""
        return int(self.groups.max()) + 1

    def count(self, images: str) -> int:
        """A number of labelled images as the plan has it: 'all' is all."""
        return self.most if images == "all" else int(images)

    def subset(self, images: str, seed: int, subset: int) -> DetectionData:
        """Labelled images of one fine-tuning run; fewer of them lie within more, and no start changes them."""
        order = np.random.default_rng([subset_seed(seed, subset), self.most]).permutation(self.most)
        chosen = np.isin(self.groups, order[: self.count(images)])
        return self.train.select(np.flatnonzero(chosen)).without_empty()  # as fine-tuning does

    @cached_property
    def records(self) -> dict[str, dict[str, Any]]:
        """Numbers and digests, as the answer has them."""
        parts = {"train": self.train, "validation": self.val, "test": self.test}
        return {
            name: {
                "images": len(part),
                "objects": int(part.num_objects.sum()),
                "classes": part.category_names,
                "fingerprint": fingerprint(part),
            }
            for name, part in parts.items()
            if part is not None
        }


def subset_seed(seed: int, subset: int) -> int:
    """Seed of a fine-tuning run: of its images, their order and flips, and of new weights."""
    return _SUBSET_STRIDE * seed + subset


def open_labelled(plan: ComparePlan, parts: Sequence[str]) -> CompareData:
    """Annotated images of a plan, each of `parts` (`val`, `test`) with objects, and without training images."""
    if plan.data is None:
        raise InputError("data is missing: name annotated images, as for mcl-hf finetune --data")
    given = load_finetune_arguments(plan.recipe, **(plan.finetune or {}))
    reading = {name: getattr(given, name) for name in _READING}
    train = open_detection_data(
        plan.data, split=plan.split, images=plan.image_root, group_column=plan.label_group, **reading
    )
    if plan.label_group is not None and None in train.groups:
        name = train.names[train.groups.index(None)]
        raise InputError(f"label_group {plan.label_group}: {name} of {train.source} has no {plan.label_group!r}")
    train, found = _held_out(train, plan)
    if plan.label_group is None:
        train = train.without_empty()  # nothing to learn from; a group may hold some
    if train.num_learnable == 0:
        raise InputError(f"{train.source} has no objects to learn from in its split {plan.split!r}")
    held_out = [f"{part} images: {data.description}" for part, data in found.items() if part in parts]
    opened = {part: found.get(part) or _open_part(plan, train, part, reading) for part in parts}
    return CompareData(train, opened.get("val"), opened.get("test"), held_out)


def _held_out(train: DetectionData, plan: ComparePlan) -> tuple[DetectionData, dict[str, DetectionData]]:
    """What stays for training, and what `val_fraction` holds out for validation and, without a test split, for the
    test."""
    found: dict[str, DetectionData] = {}
    if plan.val_fraction is None:
        return train, found
    whole, own_test = len(train), plan.test_data is not None or plan.test_split is not None
    for part in ["val"] if own_test or has_split(plan.data or "", "test") else ["test", "val"]:
        kept, out = hold_out(train, plan.val_fraction * whole / len(train), 0)
        found[part] = train.select(out)
        found[part].kind += f", {len(out)} of {whole} images, held out"
        if not found[part].num_objects.any():
            raise InputError(f"{part} images: those that val_fraction holds out have no objects: give a larger one")
        train = train.select(kept)
    return train, found


def _open_part(plan: ComparePlan, train: DetectionData, part: str, reading: Mapping[str, Any]) -> DetectionData:
    own = getattr(plan, f"{part}_data")
    source = own or plan.data or ""
    split = getattr(plan, f"{part}_split")
    if split is None:  # data that were named for this and tell no splits are meant as a whole
        whole = own is not None and Path(own).exists() and not list_splits(own)
        split = "train" if whole else {"val": "validation", "test": "test"}[part]
    flags = f"--{part}-data and --{part}-split"

    opened = partial(open_detection_data, source, split=split, images=getattr(plan, f"{part}_image_root"), **reading)
    try:
        try:
            found = opened(group_column=plan.label_group)
        except InputError:  # a table of other images need not have the column
            found = opened()
    except InputError as error:
        raise InputError(
            f"{part} images: {error}; {flags} name others, such as --test-split validation, and --val-fraction 0.2 "
            "holds out what has no split"
        ) from error
    unknown = [name for name in found.category_names if name not in train.category_names]
    groups, others = ({str(group) for group in data.groups if group is not None} for data in (train, found))
    shared = sorted(groups & others)
    if not found.num_objects.any():
        wrong = f"has no objects in its split {split!r}: see {flags}"
    elif unknown:
        wrong = f"has classes that {train.source} lacks: {', '.join(unknown)}"
    elif overlaps(found, train):
        wrong = (
            f"shares images with the training images: it has no split {split!r} of its own; name others with {flags}"
        )
    elif shared:
        wrong = (
            f"shares {len(shared)} group(s) of {plan.label_group} with the training images, such as {shared[0]}: part "
            f"the splits by {plan.label_group}, or name others with {flags}"
        )
    else:
        return found
    raise InputError(f"{part} images: {found.source} {wrong}")


def check_subsets(plan: ComparePlan, data: CompareData) -> int:
    """Images with objects in the smallest subset; refuses one with nothing to learn from, and too many images."""
    least = len(data.train)
    for images in plan.images:
        if data.count(images) > data.most:
            kind = "images" if plan.label_group is None else f"groups of {plan.label_group}"
            raise InputError(f"images {images}: {data.train.source} has {data.most} labelled {kind}: ask for fewer")
    fewest = plan.images[0]
    tuning = [plan.tuning_seed] if len(plan.learning_rates) != 1 else []
    for seed, number in itertools.product([*plan.seed_list, *tuning], range(plan.subsets)):
        subset = data.subset(fewest, seed, number)
        least = min(least, len(subset))
        if subset.num_learnable == 0:
            raise InputError(f"images {fewest}: subset {number} of seed {seed} holds no object: ask for more images")
    return least


def check_apart(data: CompareData, pictures: ImageSource | None, cache: Path) -> None:
    """Refuse test images that also lie, byte for byte, among the others or the pictures that are pre-trained on; empty
    ones may, since blank tiles are alike. The cache keeps hashes, so that a later call reads no images."""
    assert data.test is not None, "asked for"
    known = json.loads(cache.read_text(encoding="utf-8")) if cache.is_file() else {}

    def hashes(part: DetectionData | ImageSource) -> set[str]:
        if isinstance(part, DetectionData):
            key, read = f"{part.source} {fingerprint(part)}", lambda index: part[index].image_bytes()
        else:
            key, read = part.fingerprint, lambda index: part.sample(index).bytes_
        if key not in known:
            found = set()
            for index in range(len(part)):
                with suppress(BrokenImage):
                    found.add(hashlib.blake2b(read(index), digest_size=8).hexdigest())
            known[key] = sorted(found)
        return set(known[key])

    test = hashes(data.test.without_empty())
    others = {"training": data.train, "validation": data.val, "unlabelled": pictures}
    shared = {name: len(test & hashes(part)) for name, part in others.items() if part is not None}
    write_json(cache, known)
    for name in filter(shared.get, shared):
        raise InputError(
            f"{shared[name]} test image(s) are also among the {name} images, byte for byte: nothing would be tested; "
            "take them out of one of the two"
        )


def without_labels(train: DetectionData, work: Path) -> Path:
    """A folder in `work` of the training images alone, called after them: links to files, or parquet shards."""
    folder = work / f"unlabelled-{fingerprint(train)}"
    files = train.reader.paths if isinstance(train.reader, FileImages) else None
    if files is not None:  # which may have been moved since the links were made
        shutil.rmtree(folder, ignore_errors=True)
    elif folder.is_dir():
        return folder
    with whole_folder(folder) as partial:
        if files is not None:
            for index, item in enumerate(train):
                file = Path(files[item.position])
                (partial / f"{index:07d}{file.suffix}").symlink_to(file.resolve())
            return folder
        import pyarrow as pa
        import pyarrow.parquet as pq

        for number, rows in enumerate(np.array_split(np.arange(len(train)), max(1, len(train) // _SHARD_ROWS))):
            images = [{"bytes": train[int(row)].image_bytes(), "path": train.names[int(row)]} for row in rows]
            pq.write_table(pa.table({"image": images}), partial / f"images-{number:05d}.parquet")
    return folder
