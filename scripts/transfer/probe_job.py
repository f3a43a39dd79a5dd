"""Probes of one start: what its region features know of classes, at every size and across sizes.

Flow: start folder + scenes -> **probe_job** -> results. Objects are looked up in, or learnt from, scenes of the
training split, and asked for in scenes of the test (or validation) split, whose groups are others: an object is never
found by another picture of itself. The rendering is that of `mcl-hf probe`.

Besides class accuracy, the features of single objects rendered once for each level say whether levels share a space:

* `same_object`: mean cosine of one object's features at two levels, `other_object`: of two objects'; features centred
  by level first, since means of activations all point the same way.
* `found`: share of objects whose nearest neighbour at the other level is the same object.
* `effective_rank` of the centred features of each level (RankMe, arXiv 2210.02885).
"""

import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from mcl_hf.models import MCLModel
from mcl_hf.probe.classify import knn_classes, linear_classes, nearest, summarise_levels
from mcl_hf.probe.object_probe import MOST_BOXES, ObjectProbe, scene_side
from mcl_hf.probe.region_features import FEATURES, features_of_boxes, undisturbed
from mcl_hf.training.health import effective_rank

from .jobs import Bench, Job, check_same, file_hashes, write_result
from .pretrain_job import make_start
from .scene_groups import Scenes, open_scenes

LEVEL_NAMES = ("P2", "P3", "P4", "P5")
_Features = dict[str, torch.Tensor]


def run_probe(bench: Bench, job: Job) -> bool:
    """Probe the start of an arm and write its result; True when it is done."""
    started = time.time()
    folder = bench.data_of(job.fold)
    files = ["annotations/instances_train.json", f"annotations/instances_{job.split}.json"]
    options = {"images": list(bench.scale.probe_images)}
    data = file_hashes(folder, files)
    check_same(bench, job, options, data)
    model = MCLModel.from_pretrained(
        make_start(bench, job.arm, job.fold, job.seed, job.trial), dtype=torch.float32
    ).eval()
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    scenes = [open_scenes(folder / file) for file in files]
    found = measure(model, scenes[0], scenes[1], bench.scale.probe_images)
    write_result(bench, job, options, data, time.time() - started, found)
    return True


def measure(model: MCLModel, bank: Scenes, asked: Scenes, images: Sequence[int]) -> dict[str, Any]:
    """Figures of a network, for each of the stages in `region_features.FEATURES`.

    Args:
        model: in eval mode.
        bank: scenes that are learnt from.
        asked: scenes whose objects are asked for; of other groups.
        images: most scenes of each.

    Returns:
        `objects` learnt from and asked for, `chance` (the commonest class), `levels`, and `features`: name ->
        {"knn", "linear": level or "all" -> share of objects that is right; "groups": group -> [objects, right by kNN,
        right by the linear classifier]; "across", "same_level", "other_level": kNN, queries' level by bank's level;
        "same_object", "other_object", "found": by pairs of levels; "effective_rank": by level}.
    """
    probes = [_probe(model, scenes, most) for scenes, most in zip((bank, asked), images, strict=True)]
    with undisturbed(model):
        boxes = [features_of_boxes(model, probe.images, probe.boxes) for probe, _ in probes]
        crops = [_rendered(model, probe) for probe, _ in probes]
    (learnt, _), (query, groups) = probes
    commonest = learnt.classes.bincount().argmax()
    levels = boxes[1]["levels"]
    chosen = {"all": torch.ones_like(levels, dtype=torch.bool)}
    chosen |= {name: levels == index for index, name in enumerate(LEVEL_NAMES) if (levels == index).any()}
    features: dict[str, Any] = {}
    for name in FEATURES:
        right = {
            "knn": knn_classes(boxes[1][name], boxes[0][name], learnt.classes) == query.classes,
            "linear": linear_classes(boxes[1][name], boxes[0][name], learnt.classes) == query.classes,
        }
        features[name] = {
            kind: {of: values[rows].double().mean().item() for of, rows in chosen.items()}
            for kind, values in right.items()
        }
        features[name]["groups"] = _by_group(groups, right)
        features[name] |= _across(
            learnt, query, *({level: part[name] for level, part in side.items()} for side in crops)
        )
    return {
        "objects": [len(learnt.classes), len(query.classes)],
        "classes": len(learnt.classes.unique()),
        "chance": (query.classes == commonest).double().mean().item(),
        "sizes": {of: int(rows.sum()) for of, rows in chosen.items()},
        "levels": list(query.levels),
        "features": features,
    }


def _probe(model: MCLModel, scenes: Scenes, most: int) -> tuple[ObjectProbe, list[str]]:
    """Rendered objects of at most so many scenes, and the group of each."""
    filled = [index for index in range(len(scenes.data)) if scenes.groups[index]]
    count = min(most, len(filled))
    indices = [filled[position * len(filled) // count] for position in range(count)]
    probe = ObjectProbe(scenes.data.select(indices), model.config, count)
    groups = [group for index in indices for group in scenes.groups[index][:MOST_BOXES]]
    assert len(groups) == len(probe.classes), "scenes have no crowds and no boxes outside of the image"
    return probe, groups


def _rendered(model: MCLModel, probe: ObjectProbe) -> dict[str, _Features]:
    """Features of the largest object of every scene, rendered for each level."""
    found = {}
    for level, side in probe.levels.items():
        start = (scene_side(side) - side) / 2
        box = torch.tensor([[start, start, start + side, start + side]])
        found[level] = features_of_boxes(model, probe.crops[level], [box] * len(probe))
    return found


def _by_group(groups: Sequence[str], right: dict[str, torch.Tensor]) -> dict[str, list[int]]:
    counts: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        row = counts.setdefault(group, [0, 0, 0])
        row[0] += 1
        row[1] += int(right["knn"][index])
        row[2] += int(right["linear"][index])
    return dict(sorted(counts.items()))


def _across(learnt: ObjectProbe, query: ObjectProbe, bank: _Features, asked: _Features) -> dict[str, Any]:
    """Class accuracy and likeness between levels; `bank` and `asked`: level -> `(N, D)`."""
    names = list(asked)
    table = [
        [
            (knn_classes(asked[row], bank[column], learnt.crop_classes) == query.crop_classes).double().mean().item()
            for column in names
        ]
        for row in names
    ]
    centred = {
        level: F.normalize(vectors.double() - vectors.double().mean(dim=0), dim=1) for level, vectors in asked.items()
    }
    rows = torch.arange(len(query))
    pairs: dict[str, dict[str, float]] = {"same_object": {}, "other_object": {}, "found": {}}
    for position, one in enumerate(names):
        for other in names[position + 1 :]:
            cosines = centred[one] @ centred[other].T  # (N, N)
            same, count = cosines.diagonal().mean().item(), len(rows)
            pairs["same_object"][f"{one}-{other}"] = same
            pairs["other_object"][f"{one}-{other}"] = (cosines.sum().item() - same * count) / (count * (count - 1))
            hits = (nearest(centred[one], centred[other]) == rows).double().mean().item()
            back = (nearest(centred[other], centred[one]) == rows).double().mean().item()
            pairs["found"][f"{one}-{other}"] = (hits + back) / 2
    ranks = {level: effective_rank(vectors.T @ vectors).item() for level, vectors in centred.items()}
    return {**summarise_levels(table), **pairs, "effective_rank": ranks}
