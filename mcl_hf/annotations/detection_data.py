"""Annotated images as one plain type, whatever they were read from: the currency of fine-tuning and evaluation.

Flow: open_data -> a reader -> annotation_check -> **detection_data** -> fine-tuning, evaluation. Annotations lie in a
few arrays and one block of bytes, not in a million Python objects, all of which forked worker processes would copy, as
counting references writes to them.
"""

import copy
import json
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..data.decode import BrokenImage, open_image
from ..data.sources.image_source import image_bytes
from .masks import MaskSequence, Segmentation, decode_masks

ImageId = int | str


@dataclass(frozen=True)
class FileImages:
    """Undecoded images by position, each in a file of its own."""

    paths: Sequence[str]

    def read(self, position: int, start: int = 0, most: int | None = None) -> bytes:
        """The file's bytes, or `most` of them, from `start` on, which counts from the end where it is negative.

        Raises:
            BrokenImage: there is no such file, or it cannot be read.
        """
        path = Path(self.paths[position])
        try:
            status = path.stat()
            if stat.S_ISREG(status.st_mode):  # a pipe or a device would never end
                with path.open("rb") as file:
                    file.seek(start if start >= 0 else max(0, status.st_size + start))
                    return file.read(most)
        except FileNotFoundError as error:
            raise BrokenImage("the file is missing") from error
        except OSError as error:
            raise BrokenImage(f"cannot be read: {error.strerror or error}") from error
        except ValueError as error:  # a zero byte or half a character in its name
            raise BrokenImage("no file can have such a name") from error
        raise BrokenImage("is a folder" if path.is_dir() else "is no file")


@dataclass(frozen=True)
class TableImages:
    """Undecoded images in a column of a `datasets` table; `paths` are None where the table holds their bytes."""

    table: Any
    column: str
    paths: Sequence[str | None]

    def read(self, position: int, start: int = 0, most: int | None = None) -> bytes:
        """As `FileImages.read`, but for `most`: the bytes are there already."""
        return image_bytes(self.table[position][self.column])[start:]


ImageReader = FileImages | TableImages


@dataclass(frozen=True)
class DetectionItem:
    """One image and its objects, still undecoded. All annotations are here, crowds and difficult ones included.

    Attributes:
        image_id: the data set's own.
        name: the path, or row, that a user can find the image by.
        width, height: px, of the picture that `decode` gives.
        boxes: float64 `(n, 4)`, x0 y0 x1 y1 in px as annotated (not clipped to the image).
        labels: int64 `(n,)`, class index from 0.
        iscrowd: bool `(n,)`, a region of many objects rather than one.
        difficult: bool `(n,)`, Pascal VOC's flag.
        areas: float64 `(n,)`, px², of the mask where the annotation says so.
        segmentations: n polygons or run lengths, None where an object has no mask.
    """

    image_id: ImageId
    name: str
    width: int
    height: int
    boxes: np.ndarray
    labels: np.ndarray
    iscrowd: np.ndarray
    difficult: np.ndarray
    areas: np.ndarray
    segmentations: list[Segmentation | None]
    position: int
    reader: ImageReader = field(repr=False)

    def image_bytes(self) -> bytes:
        """The encoded image. Raises `BrokenImage` where it cannot be read."""
        return self.reader.read(self.position)

    def decode(self) -> np.ndarray:
        """Pixels, uint8 `(height, width, 3)`, turned upright by EXIF unless they were annotated unturned, which the
        annotated size tells.

        Raises:
            BrokenImage: damaged, gone, or not of the size that was annotated, so that no box would fit.
        """
        opened = open_image(self.image_bytes())
        annotated, upright = (self.width, self.height), (opened.width, opened.height)
        if annotated not in (upright, opened.stored_size):
            raise BrokenImage(
                f"annotated as {annotated[0]}x{annotated[1]} px, but the file has {upright[0]}x{upright[1]}"
            )
        opened.upright = annotated == upright
        return opened.decode()

    def masks(self) -> np.ndarray:
        """Pixels of all masks together, uint8 `(n, height, width)`; 0 where an object has none."""
        return decode_masks(self.segmentations, self.height, self.width)

    def each_mask(self, keep: np.ndarray | None = None) -> MaskSequence:
        """The masks one by one; `keep`, bool `(n,)`, leaves the others out."""
        chosen = [part for n, part in enumerate(self.segmentations) if keep is None or keep[n]]
        return MaskSequence(chosen, self.height, self.width)

    def training_targets(self, masks: bool = False) -> dict[str, Any]:
        """What a detector learns from: single objects only, boxes clipped to the image.

        Left out are crowds, boxes without area inside the image and, with `masks`, objects without a mask.

        Returns:
            `boxes` float32 `(k, 4)`, `labels` int64 `(k,)`, and with `masks` k `masks`, a `MaskSequence`.
        """
        limits = np.array([self.width, self.height, self.width, self.height], np.float64)
        boxes = np.clip(self.boxes, 0, limits)  # (n, 4)
        keep = ~self.iscrowd & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        if masks:
            keep &= np.array([part is not None for part in self.segmentations], bool)
        targets: dict[str, Any] = {"boxes": boxes[keep].astype(np.float32), "labels": self.labels[keep]}
        if masks:
            targets["masks"] = self.each_mask(keep)
        return targets


@dataclass
class AnnotationColumns:
    """All A annotations of a data set of N images, image after image: those of image i are `offsets[i]:offsets[i + 1]`,
    int64 `(N + 1,)`; `bbox` float64 `(A, 4)` as COCO writes it, x y width height; `segmentation_ends` int64 `(A + 1,)`
    cuts `segmentations` (JSON) into one piece each."""

    offsets: np.ndarray
    bbox: np.ndarray
    labels: np.ndarray
    iscrowd: np.ndarray
    difficult: np.ndarray
    areas: np.ndarray
    segmentation_ends: np.ndarray
    segmentations: np.ndarray

    @classmethod
    def of(
        cls, counts: Sequence[int], bbox: Any = (), labels: Any = (), iscrowd: Any = (), difficult: Any = (),
        areas: Any = (), segmentations: Sequence[Any] = (),
    ) -> "AnnotationColumns":  # fmt: skip
        """From how many annotations each image has, and A of everything; segmentations are bytes of JSON, or none."""
        return cls(
            offsets=_ends(counts),
            bbox=np.array(bbox, np.float64).reshape(-1, 4),
            labels=np.array(labels, np.int64),
            iscrowd=np.array(iscrowd, bool),
            difficult=np.array(difficult, bool),
            areas=np.array(areas, np.float64),
            segmentation_ends=_ends([len(piece) for piece in segmentations]),
            segmentations=np.frombuffer(b"".join(segmentations), np.uint8),
        )

    @property
    def owners(self) -> np.ndarray:
        """The image of each annotation, int64 `(A,)`."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def segmentation(self, number: int) -> Segmentation | None:
        """The polygons or run lengths of annotation `number`."""
        start, end = self.segmentation_ends[number : number + 2]
        return json.loads(self.segmentations[start:end].tobytes()) if end > start else None


def _ends(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """0, and the sum of the lengths so far after each."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


@dataclass
class DetectionData:
    """N annotated images of K classes; `open_detection_data` makes one.

    Attributes:
        kind: what was opened, such as "COCO format".
        source: the file or folder that the annotations came from.
        category_ids: K ids as the data set writes them, ascending; index is the class index from 0.
        category_names: K names, in the same order.
        image_ids, names, widths, heights: of each image; ids are the data set's own.
        report: what the check found (`annotation_check.DataReport`).
        is_voc: Pascal VOC data, which are scored by its own rule too.
        groups: the group of each image, None where the data tell none (`group_column`).
    """

    kind: str
    source: str
    category_ids: list[int]
    category_names: list[str]
    image_ids: list[ImageId]
    names: list[str]
    widths: np.ndarray
    heights: np.ndarray
    columns: AnnotationColumns
    reader: ImageReader
    positions: np.ndarray  # of each image in the reader
    report: Any = None
    is_voc: bool = False
    groups: list[Any] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.image_ids)

    def __iter__(self) -> Iterator[DetectionItem]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> DetectionItem:
        if not 0 <= index < len(self):
            raise IndexError(index)
        columns = self.columns
        start, end = (int(offset) for offset in columns.offsets[index : index + 2])
        bbox = columns.bbox[start:end]
        return DetectionItem(
            image_id=self.image_ids[index],
            name=self.names[index],
            width=int(self.widths[index]),
            height=int(self.heights[index]),
            boxes=np.concatenate([bbox[:, :2], bbox[:, :2] + bbox[:, 2:]], axis=1),
            labels=columns.labels[start:end],
            iscrowd=columns.iscrowd[start:end],
            difficult=columns.difficult[start:end],
            areas=columns.areas[start:end],
            segmentations=[columns.segmentation(number) for number in range(start, end)],
            position=int(self.positions[index]),
            reader=self.reader,
        )

    @property
    def num_labels(self) -> int:
        """Number of classes, K."""
        return len(self.category_names)

    @property
    def id2label(self) -> dict[int, str]:
        """Class index from 0 -> name, as a model's config has it."""
        return dict(enumerate(self.category_names))

    @property
    def label2id(self) -> dict[str, int]:
        """Name -> class index from 0."""
        return {name: index for index, name in enumerate(self.category_names)}

    @property
    def num_objects(self) -> np.ndarray:
        """Annotations of each image that are no crowds, int64 `(N,)`."""
        single = _ends(~self.columns.iscrowd)
        return single[self.columns.offsets[1:]] - single[self.columns.offsets[:-1]]

    @property
    def image_sides(self) -> np.ndarray:
        """Width and height of the image of each annotation, px, int64 `(A, 2)`."""
        return np.stack([self.widths, self.heights], axis=1)[self.columns.owners]

    @property
    def has_area(self) -> np.ndarray:
        """Which boxes have some area inside of their image, bool `(A,)`."""
        low = self.columns.bbox[:, :2]
        high = low + self.columns.bbox[:, 2:]
        return (np.minimum(high, self.image_sides) > np.maximum(low, 0)).all(axis=1)

    @property
    def num_learnable(self) -> int:
        """Objects that a detector can learn from: no crowds, some area inside of their image."""
        return int((~self.columns.iscrowd & self.has_area).sum())

    @property
    def has_masks(self) -> bool:
        """Whether any single object has a mask; crowds often are the only ones that do."""
        return bool((np.diff(self.columns.segmentation_ends)[~self.columns.iscrowd] > 0).any())

    @property
    def description(self) -> str:
        """Kind, numbers, and what the check found: a few lines for a run's log."""
        crowds = int(self.columns.iscrowd.sum())
        about = (
            f"{self.kind} ({self.source}): {len(self)} images, {len(self.columns.labels) - crowds} objects of "
            f"{self.num_labels} classes{', with masks' if self.has_masks else ''}"
        )
        return "\n".join([about, *(self.report.lines() if self.report is not None else [])])

    def select(self, indices: Sequence[int] | np.ndarray) -> "DetectionData":
        """The data with these images only, in this order; classes and ids stay."""
        chosen = np.asarray(indices, dtype=np.int64)
        old, new = self.columns, copy.copy(self)
        pieces = [np.arange(old.offsets[index], old.offsets[index + 1]) for index in chosen]
        rows = np.concatenate([np.zeros(0, np.int64), *pieces])
        ends = old.segmentation_ends
        blocks = [old.segmentations[ends[row] : ends[row + 1]] for row in rows]
        each = (old.bbox[rows], old.labels[rows], old.iscrowd[rows], old.difficult[rows], old.areas[rows])
        new.columns = AnnotationColumns.of([len(piece) for piece in pieces], *each, blocks)
        for name in ("image_ids", "names", "groups"):
            values = getattr(self, name)
            setattr(new, name, [values[index] for index in chosen] if values else [])
        for name in ("widths", "heights", "positions"):
            setattr(new, name, getattr(self, name)[chosen])
        return new

    def without_empty(self) -> "DetectionData":
        """The data without images that hold no single object, which many recipes leave out of training."""
        filled = self.select(np.flatnonzero(self.num_objects > 0))
        if self.report is not None:
            filled.report = self.report.settled_as("images without objects", "left out of training")
        return filled
