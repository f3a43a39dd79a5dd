"""What the scenes' JSON says beyond COCO: the group of every object, and how a scene was blended.

Flow: DATA/annotations/*.json -> **scene_groups** -> probe_job, group_scores.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcl_hf.detection.datasets import open_detection_data
from mcl_hf.detection.detection_data import DetectionData
from mcl_hf.errors import InputError


@dataclass(frozen=True)
class Scenes:
    """Annotated scenes, and what only this benchmark needs to know of them.

    Attributes:
        data: images and objects.
        groups: for each image, in the order of `data`, the group of each of its objects.
        blending: for each image the way it was blended.
    """

    data: DetectionData
    groups: list[list[str]]
    blending: list[str]


def open_scenes(file: Path) -> Scenes:
    """Open a split's annotations.

    Raises:
        InputError: objects without a group, or as `open_detection_data`.
    """
    data = open_detection_data(file, check_files=False)
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    of_image: dict[Any, list[str]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        if "group" not in annotation:
            raise InputError(f"{file}: annotation {annotation.get('id')} has no group: make the data anew")
        of_image[annotation["image_id"]].append(str(annotation["group"]))
    blending = {image["id"]: str(image.get("blending", "")) for image in content["images"]}
    groups = [of_image[image_id] for image_id in data.image_ids]
    for number, of_one in enumerate(groups):
        objects = int(data.columns.offsets[number + 1] - data.columns.offsets[number])
        if len(of_one) != objects:
            raise InputError(f"{file}: image {data.image_ids[number]} has {objects} objects but {len(of_one)} groups")
    return Scenes(data, groups, [blending[image_id] for image_id in data.image_ids])
