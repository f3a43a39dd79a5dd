"""The images of a comparison: labelled subsets that are the same for every start, and no test image among the others.

Flow: plan -> **labelled** -> jobs (numbers of images), run_job (the images themselves).
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...data.decode import BrokenImage
from ...errors import InputError
from ...files import write_json
from ..data.detection_data import DetectionData
from ..data.open_data import has_split, list_splits, open_detection_data
from ..finetuning.data import fingerprint, hold_out, overlaps
from .plan import ComparePlan

_SUBSET_STRIDE = 100  # subsets of a seed that no other seed has


@dataclass(frozen=True)
class CompareData:
    """Annotated images of a comparison.

    Attributes:
        train: labelled ones; subsets are drawn of these.
        val: what learning rates are chosen on; None where it was not asked for.
        test: what is asked once per finished job; likewise.
        groups: of each training image; None where none are named.
        held_out: lines about parts that were held out of the labelled images.
    """

    train: DetectionData
    val: DetectionData | None
    test: DetectionData | None
    groups: np.ndarray | None
    held_out: tuple[str, ...] = ()

    @property
    def most(self) -> int:
        """Labelled images, or groups of them."""
        return len(self.train) if self.groups is None else len(np.unique(self.groups))

    def count(self, images: str) -> int:
        """A number of labelled images as the plan has it: 'all' is all."""
        return self.most if images == "all" else int(images)

    def subset(self, images: str, seed: int, subset: int) -> DetectionData:
        """Labelled images of one fine-tuning run; fewer of them lie within more, and no start changes them."""
        order = np.random.default_rng([subset_seed(seed, subset), self.most]).permutation(self.most)
        chosen = np.sort(order[: self.count(images)])
        if self.groups is not None:
            names = np.unique(self.groups)
            chosen = np.flatnonzero(np.isin(self.groups, names[chosen]))
        return self.train.select(chosen).without_empty()  # as fine-tuning does

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
    """Seed of a fine-tuning run: of its images, their order and flips, and of new weights.

    Example:
        >>> subset_seed(2, 1)
        201
    """
    return _SUBSET_STRIDE * seed + subset


def open_labelled(plan: ComparePlan, reading: Mapping[str, Any], parts: Sequence[str]) -> CompareData:
    """Open annotated images of a plan.

    Args:
        plan: what is asked.
        reading: keywords of `open_detection_data` that all parts share.
        parts: which of `val` and `test` are wanted beside the training images.

    Raises:
        InputError: one line: nothing there, no objects, or parts that share images.
    """
    if plan.data is None:
        raise InputError("data is missing: name annotated images, as for mcl-hf finetune --data")
    train = open_detection_data(
        plan.data, split=plan.split, images=plan.image_root, group_column=plan.label_group, **reading
    )
    groups = None if plan.label_group is None else _groups(train, plan.label_group)
    found: dict[str, DetectionData] = {}
    if plan.val_fraction is not None:
        train, found = _held_out(train, plan, plan.val_fraction)
        groups = None if plan.label_group is None else _groups(train, plan.label_group)
    if groups is None:
        train = train.without_empty()  # nothing to learn from; a group may hold some
    if train.num_learnable == 0:
        raise InputError(f"{train.source} has no objects to learn from in its split {plan.split!r}")
    val, test = (
        found.get(part) or _open_part(plan, train, part, reading) if part in parts else None for part in ("val", "test")
    )
    lines = tuple(f"{part} images: {data.description}" for part, data in found.items() if part in parts)
    return CompareData(train, val, test, groups, lines)


def _held_out(
    train: DetectionData, plan: ComparePlan, fraction: float
) -> tuple[DetectionData, dict[str, DetectionData]]:
    """What stays for training, and what is held out for validation and, where the data have none, for the test."""
    source, whole = plan.data or "", train
    own_test = plan.test_data is not None or plan.test_split is not None
    parts = ["val"] if own_test or has_split(source, "test") else ["test", "val"]
    found = {}
    for part in parts:
        kept, out = hold_out(train, fraction * len(whole) / len(train), 0)
        found[part] = train.select(out)
        found[part].kind += f", {len(out)} of {len(whole)} images, held out"
        if not found[part].num_objects.any():
            raise InputError(f"{part} images: those that val_fraction holds out have no objects: give a larger one")
        train = train.select(kept)
    return train, found


def check_subsets(plan: ComparePlan, data: CompareData) -> None:
    """See that there are as many labelled images as asked for, and something to learn from in each subset.

    Raises:
        InputError: there are not.
    """
    for images in plan.images:
        if data.count(images) > data.most:
            kind = "images" if data.groups is None else f"groups of {plan.label_group}"
            raise InputError(f"images {images}: {data.train.source} has {data.most} labelled {kind}: ask for fewer")
    for seed in [*plan.seed_list, plan.tuning_seed]:
        for number in range(plan.subsets):
            if data.subset(plan.images[0], seed, number).num_learnable == 0:
                raise InputError(
                    f"images {plan.images[0]}: subset {number} of seed {seed} holds no object: ask for more images"
                )


def _open_part(plan: ComparePlan, train: DetectionData, part: str, reading: Mapping[str, Any]) -> DetectionData:
    own = getattr(plan, f"{part}_data")
    source = own or plan.data or ""
    split = getattr(plan, f"{part}_split")
    if split is None:  # data that were named for this and tell no splits are meant as a whole
        whole = own is not None and Path(own).exists() and not list_splits(own)
        split = "train" if whole else {"val": "validation", "test": "test"}[part]
    flags = f"--{part}-data and --{part}-split"
    try:
        found = open_detection_data(source, split=split, images=getattr(plan, f"{part}_image_root"), **reading)
    except InputError as error:
        raise InputError(
            f"{part} images: {error}; {flags} name others, such as --test-split validation, and --val-fraction 0.2 "
            "holds out what has no split"
        ) from error
    if not found.num_objects.any():
        raise InputError(f"{part} images: {found.source} has no objects in its split {split!r}: see {flags}")
    unknown = [name for name in found.category_names if name not in train.category_names]
    if unknown:
        raise InputError(f"{part} images: {found.source} has classes that {train.source} lacks: {', '.join(unknown)}")
    if overlaps(found, train):
        raise InputError(
            f"{part} images: {found.source} shares images with the training images: it has no split {split!r} of its "
            f"own; name others with {flags}"
        )
    return found


def _groups(data: DetectionData, key: str) -> np.ndarray:
    """Group of each image, by an entry of COCO's images or a column of a table or CSV, `(N,)`."""
    missing = [name for name, group in zip(data.names, data.groups, strict=True) if group is None]
    if missing:
        raise InputError(f"label_group {key}: {missing[0]} of {data.source} has no {key!r}")
    return np.array([str(group) for group in data.groups])


# ----------------------------------------------------------------------------------------------------------------
# no test image among the others


def check_apart(parts: Mapping[str, tuple[str, Iterable[bytes | None]]], cache: Path) -> None:
    """Refuse test images that also lie, byte for byte, among training, validation or unlabelled ones.

    Args:
        parts: name -> (fingerprint, encoded images); the first one is what is asked of the others. None: unreadable.
        cache: file that keeps the hashes, so that a later call reads no images.

    Raises:
        InputError: naming how many are shared.
    """
    known = json.loads(cache.read_text(encoding="utf-8")) if cache.is_file() else {}
    hashes: dict[str, set[str]] = {}
    for name, (digest, images) in parts.items():
        if digest not in known:
            known[digest] = sorted({_hash(image) for image in images if image is not None})
        hashes[name] = set(known[digest])
    cache.parent.mkdir(parents=True, exist_ok=True)
    write_json(cache, known)
    first, *others = hashes
    for other in others:
        shared = len(hashes[first] & hashes[other])
        if shared:
            raise InputError(
                f"{shared} {first} image(s) are also among the {other} images, byte for byte: nothing would be "
                "tested; take them out of one of the two"
            )


def _hash(image: bytes) -> str:
    return hashlib.blake2b(image, digest_size=8).hexdigest()


def annotated_bytes(data: DetectionData) -> Iterable[bytes | None]:
    """Encoded images, one at a time."""
    for item in data:
        try:
            yield item.image_bytes()
        except BrokenImage:
            yield None


def source_bytes(source: Any) -> Iterable[bytes | None]:
    """The same of an `ImageSource`."""
    for index in range(len(source)):
        try:
            yield source.sample(index).bytes_
        except BrokenImage:
            yield None
