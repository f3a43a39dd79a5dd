"""With labels: are objects of one class near each other, at every size and across sizes?

Flow: annotated images -> features of their boxes -> kNN and linear accuracy: classes are learnt, or looked up, in one
half of the images by a fixed permutation, and asked for in the other.

* **As they are**: images are scaled so that their longer side is twice a full view (448 px for regions of 7 cells), and
  every box is read from the level that fits its size there.
* **Across levels**: the largest object of every image is rendered as large as each level wants it, in a scene twice its
  size. Queries of one level are looked up in a bank of another: what a detector needs, as it learns an object at one
  size and meets it at others.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..annotations.detection_data import DetectionData
from ..data import BrokenImage
from ..data.decode import as_picture
from ..errors import InputError
from ..models import MCLConfig, MCLModel
from .classify import NEIGHBOURS, knn_classes, linear_classes, share, summarise_levels
from .region_features import FEATURES, features_of_boxes, read_levels, to_tensor, undisturbed

MOST_BOXES = 20
"""Boxes read of one image; the first ones."""

SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, float("inf"))}
"""COCO's sizes: area of the box in px² of the original image."""


class ObjectProbe:
    """Objects of annotated images, rendered once, to be classified with any network of this input size and channels.

    Args:
        data: from `mcl_hf.annotations.open_data.open_detection_data`.
        config: of the network: size of regions, levels, channels.
        num_images: images with objects that are read, spread evenly over the data.
        seed: of the halves.

    Raises:
        InputError: fewer than four images with objects that can be read, or fewer than two classes.
    """

    def __init__(self, data: DetectionData, config: MCLConfig, num_images: int = 128, seed: int = 0) -> None:
        self.image_size = config.image_size
        self.levels = read_levels(config)
        images: list[torch.Tensor] = []
        boxes: list[torch.Tensor] = []
        classes, areas, owners, crop_classes = [], [], [], []
        crops: dict[str, list[torch.Tensor]] = {level: [] for level in self.levels}
        filled = np.flatnonzero(data.num_objects > 0)
        count = min(num_images, len(filled))
        for position in range(count):
            item = data[int(filled[position * len(filled) // count])]
            targets = item.training_targets()
            found, labels = torch.from_numpy(targets["boxes"]), targets["labels"]
            try:
                picture = as_picture(item.decode())
            except BrokenImage:
                continue
            if not len(labels):
                continue
            sides = (found[:, 2:] - found[:, :2]).amax(dim=1)
            largest = int(sides.argmax())
            for level, side in self.levels.items():
                crops[level].append(to_tensor(_render(picture, found[largest].tolist(), side, config), config))
            crop_classes.append(int(labels[largest]))
            scaled, factor = _fit(picture, 2 * self.image_size, config)
            images.append(to_tensor(scaled, config))
            kept = found[:MOST_BOXES]
            boxes.append(kept * factor)
            areas += (kept[:, 2:] - kept[:, :2]).prod(dim=1).tolist()
            classes += labels[:MOST_BOXES].tolist()
            owners += [len(images) - 1] * len(kept)
        if len(images) < 4 or len(set(classes)) < 2:
            raise InputError(
                f"a probe needs at least 4 images with objects and 2 classes: {data.source} has {len(images)} such "
                f"images that can be read, with {len(set(classes))} class(es)"
            )
        self.images, self.boxes = torch.stack(images), boxes  # (N, C, 2S, 2S) uint8
        self.classes, self.areas = torch.tensor(classes), torch.tensor(areas, dtype=torch.float64)  # (K,)
        self.crops = {level: torch.stack(of_level) for level, of_level in crops.items()}  # (N, C, side, side)
        self.crop_classes = torch.tensor(crop_classes)  # (N,)
        in_train = torch.zeros(len(images), dtype=torch.bool)
        in_train[torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[: len(images) // 2]] = True
        self.image_in_train, self.in_train = in_train, in_train[torch.tensor(owners)]

    def __len__(self) -> int:
        return len(self.images)

    def measure(self, model: MCLModel, names: Sequence[str] = FEATURES) -> dict[str, Any]:
        """Accuracies for each feature.

        Returns:
            `images`, `objects`, `classes`, `neighbours`, `chance` (the share of the commonest class of the half that is
            looked up, in the half that is asked for), `sizes` (objects asked for of each size), `levels`, and
            `features`: name -> {"knn", "linear": size or "all" -> share of objects classified rightly, None where there
            are none of this size; "across", "same_level" and "other_level": see `summarise_levels`; "balanced": these
            three as means over the classes of the share of each}; and `crops`, of what the levels are asked about, the
            largest object of each image: `asked`, `chance`, and `balanced_chance`, one by the number of classes.
        """
        if model.config.image_size != self.image_size:
            raise ValueError(f"the images are of {self.image_size} px, the model reads {model.config.image_size}")
        with undisturbed(model):
            found = features_of_boxes(model, self.images, self.boxes, names)
            rendered = {}
            for level, side in self.levels.items():
                start = (scene_side(side) - side) / 2
                box = torch.tensor([[start, start, start + side, start + side]])
                rendered[level] = features_of_boxes(model, self.crops[level], [box] * len(self), names)
        train, asked = self.in_train, ~self.in_train
        classes, bank_classes, areas = self.classes[asked], self.classes[train], self.areas[asked]
        sizes = {name: (areas >= low) & (areas < high) for name, (low, high) in SIZES.items()}
        groups = {"all": torch.ones_like(classes, dtype=torch.bool), **sizes}
        features: dict[str, Any] = {}
        for name in names:
            bank, queries = found[name][train], found[name][asked]
            features[name] = {
                "knn": _shares(knn_classes(queries, bank, bank_classes) == classes, groups),
                "linear": _shares(linear_classes(queries, bank, bank_classes) == classes, groups),
                **self._across({level: rendered[level][name] for level in self.levels}),
            }
        crop_classes = self.crop_classes[~self.image_in_train]
        return {
            "images": len(self),
            "objects": len(self.classes),
            "classes": len(self.classes.unique()),
            "neighbours": min(NEIGHBOURS, int(train.sum())),
            "chance": _chance(bank_classes, classes),
            "sizes": {name: int(chosen.sum()) for name, chosen in sizes.items()},
            "levels": list(self.levels),
            "crops": {
                "asked": len(crop_classes),
                "chance": _chance(self.crop_classes[self.image_in_train], crop_classes),
                "balanced_chance": 1 / len(crop_classes.unique()),
            },
            "features": features,
        }

    def _across(self, vectors: dict[str, torch.Tensor]) -> dict[str, Any]:
        """kNN accuracy of every level's queries in every level's bank; `vectors`: level -> `(N, D)`."""
        train, asked = self.image_in_train, ~self.image_in_train
        bank_classes, classes = self.crop_classes[train], self.crop_classes[asked]
        right = [
            [knn_classes(queries[asked], bank[train], bank_classes) == classes for bank in vectors.values()]
            for queries in vectors.values()
        ]
        plain = [[share(one) for one in row] for row in right]
        balanced = [[_balanced(one, classes) for one in row] for row in right]
        return {**summarise_levels(plain), "balanced": summarise_levels(balanced)}


def _chance(bank_classes: torch.Tensor, classes: torch.Tensor) -> float:
    """How often the bank's commonest class is right."""
    return share(classes == bank_classes.bincount().argmax())


def _balanced(right: torch.Tensor, classes: torch.Tensor) -> float:
    """Mean over the classes of the share of each that is right: a frequent one counts as much as a rare one."""
    return torch.stack([right[classes == one].double().mean() for one in classes.unique()]).mean().item()


def _shares(right: torch.Tensor, groups: dict[str, torch.Tensor]) -> dict[str, float | None]:
    return {name: share(right[chosen]) if chosen.any() else None for name, chosen in groups.items()}


def _fit(picture: Image.Image, side: int, config: MCLConfig) -> tuple[Image.Image, float]:
    """The picture in the upper left of a square of `side` px, and the factor it was scaled by."""
    factor = side / max(picture.size)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    canvas = _canvas(side, config)
    canvas.paste(picture.resize(size, Image.Resampling.BILINEAR))
    return canvas, factor


def scene_side(side: int) -> int:
    """Side in px of the scene around an object of `side` px: twice that, up to a multiple of the coarsest stride."""
    return -(-2 * side // 32) * 32


def _render(picture: Image.Image, box: Sequence[float], side: int, config: MCLConfig) -> Image.Image:
    """A square of `scene_side(side)` px around an object whose longer side is `side` px in it."""
    x0, y0, x1, y1 = box
    factor = side / max(x1 - x0, y1 - y0)
    reach = scene_side(side) / factor / 2  # px of the picture to each side of the object's centre
    left, top = (x0 + x1) / 2 - reach, (y0 + y1) / 2 - reach
    inside = (max(left, 0), max(top, 0), min(left + 2 * reach, picture.width), min(top + 2 * reach, picture.height))
    corner = [round((inside[0] - left) * factor), round((inside[1] - top) * factor)]
    size = [max(1, round((inside[2] - inside[0]) * factor)), max(1, round((inside[3] - inside[1]) * factor))]
    canvas = _canvas(scene_side(side), config)
    canvas.paste(picture.resize((size[0], size[1]), Image.Resampling.BILINEAR, inside), (corner[0], corner[1]))
    return canvas


def _canvas(side: int, config: MCLConfig) -> Image.Image:
    """A square of what becomes zero when normalised."""
    colour = tuple(round(255 * value) for value in config.image_mean or [])
    return Image.new("RGB", (side, side), colour if len(colour) == 3 else colour * 3)
