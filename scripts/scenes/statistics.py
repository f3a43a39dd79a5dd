"""Count what a set holds: objects, groups and sizes, by split and class.

Flow: compose | contact -> annotations + **statistics** -> generate. The counts are printed and written to
``statistics.json``.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np


def annotation_statistics(content: Mapping[str, Any]) -> dict[str, Any]:
    """Counts of a COCO JSON that `write_annotations` made.

    Returns:
        ``images``, ``objects``, ``groups``, ``empty_images``, ``distractors``, ``blendings`` (images by way of
        blending), ``sizes`` (objects by area range), ``side_px`` (percentiles 5, 50 and 95 of the root of the area),
        ``visible`` (mean part), and ``classes``: objects, groups and images of each.
    """
    names = {category["id"]: category["name"] for category in content["categories"]}
    annotations, images = content["annotations"], content["images"]
    areas = np.array([annotation["area"] for annotation in annotations], dtype=np.float64)
    ranges = {name: bounds for name, bounds in content["info"]["area_ranges"].items() if name != "all"}
    classes = {}
    for number, name in names.items():
        own = [annotation for annotation in annotations if annotation["category_id"] == number]
        classes[name] = {
            "objects": len(own),
            "groups": len({annotation["group"] for annotation in own}),
            "images": len({annotation["image_id"] for annotation in own}),
        }
    return {
        "images": len(images),
        "objects": len(annotations),
        "groups": len({annotation["group"] for annotation in annotations}),
        "empty_images": len(images) - len({annotation["image_id"] for annotation in annotations}),
        "distractors": sum(image.get("distractors", 0) for image in images),
        "blendings": dict(Counter(image["blending"] for image in images if "blending" in image)),
        "sizes": {name: int(((areas >= low) & (areas < high)).sum()) for name, (low, high) in ranges.items()},
        "side_px": [round(float(side), 1) for side in np.percentile(np.sqrt(areas), (5, 50, 95))] if len(areas) else [],
        "visible": round(float(np.mean([annotation["visible"] for annotation in annotations])), 3) if len(areas) else 0,
        "classes": classes,
    }


def print_statistics(name: str, statistics: Mapping[str, Any], seconds: float) -> None:
    """One line for a split, and one for its classes."""
    rate = statistics["images"] / max(seconds, 1e-9)
    sizes = " ".join(f"{size} {count}" for size, count in statistics["sizes"].items())
    print(
        f"{name}: {statistics['images']} scenes ({rate:.0f}/s), {statistics['objects']} objects of "
        f"{statistics['groups']} groups, {statistics['distractors']} distractors, {statistics['empty_images']} empty; "
        f"{sizes}; side 5/50/95 %: {' '.join(map(str, statistics['side_px']))} px; visible {statistics['visible']}"
    )
    parts = [f"{label} {count['objects']} ({count['groups']})" for label, count in statistics["classes"].items()]
    print(f"  objects (groups): {', '.join(parts)}", flush=True)


def print_metadata(statistics: Mapping[str, Any], seconds: float) -> None:
    """One line for the pictures for pre-training."""
    labels = ", ".join(f"{label} {count}" for label, count in statistics["labels"].items())
    print(
        f"pretrain: {statistics['images']} images ({statistics['images'] / max(seconds, 1e-9):.0f}/s) of "
        f"{statistics['cutouts']} cut-outs, {statistics['groups']} groups; by label: {labels}",
        flush=True,
    )
