"""AP with groups drawn again: what it is where every group counts once, and where one does not count."""

import json

import numpy as np
import pytest

from mcl_hf.detection.coco_metrics import count_matches
from mcl_hf.detection.results import ground_truth_results
from scripts.transfer.group_scores import match, replicates, score, weighted_ap
from scripts.transfer.scene_groups import open_scenes


@pytest.fixture(scope="module")
def scenes(drawn):
    return open_scenes(drawn / "fold-0" / "annotations" / "instances_test.json")


@pytest.fixture(scope="module")
def noisy(scenes):
    """Annotations shifted by a few px, some twice, some dropped, with random scores, and some of a wrong class."""
    random = np.random.default_rng(0)
    results = []
    for result in ground_truth_results(scenes.data) * 3:
        if random.random() < 0.7:
            shift = random.normal(0, 3, 4)
            label = result["category_id"] if random.random() < 0.8 else int(random.integers(1, 4))
            box = (np.array(result["bbox"]) + shift).clip(1).tolist()
            results.append({**result, "bbox": box, "category_id": label, "score": float(random.random())})
    return results


def test_the_truth_scores_1_everywhere_and_in_every_draw(scenes):
    found = score(scenes, ground_truth_results(scenes.data), masks=True, fold=0)
    for kind in ("box", "mask"):
        assert found[kind]["AP"] == pytest.approx(1) and found[kind]["agnostic"] == pytest.approx(1)
        assert np.allclose(found[kind]["replicates"], 1) and len(found[kind]["replicates"]) == 200
        assert all(share == 1 for _, share in found[kind]["groups"].values())
    assert sum(count for count, _ in found["box"]["groups"].values()) == scenes.data.num_objects.sum()


def test_with_every_group_once_it_is_cocos_ap(scenes, noisy):
    whole = count_matches(scenes.data, noisy, "bbox")
    matches = match(scenes, noisy, "bbox")
    for label, of_class in enumerate(matches):
        ones = np.ones((1, len(of_class.names)))
        assert weighted_ap(of_class, ones)[0] == pytest.approx(whole.figures(label)["AP"], abs=1e-9)


def test_a_group_that_is_not_drawn_does_not_count(scenes, noisy):
    first = match(scenes, noisy, "bbox")[0]
    weights = np.zeros((2, len(first.names)))
    weights[1, 0] = 1.0
    none, one = weighted_ap(first, weights)
    assert np.isnan(none) and 0 <= one <= 1
    doubled = weighted_ap(first, 2 * np.ones((1, len(first.names))))[0]
    assert doubled >= weighted_ap(first, np.ones((1, len(first.names))))[0]  # hits count twice, misses once


def test_draws_depend_on_the_fold_and_not_on_the_detections(scenes, noisy):
    assert replicates(match(scenes, noisy, "bbox"), 0) == replicates(match(scenes, noisy, "bbox"), 0)
    assert replicates(match(scenes, noisy, "bbox"), 0) != replicates(match(scenes, noisy, "bbox"), 1)
    spread = np.std(replicates(match(scenes, noisy, "bbox"), 0))
    assert spread > 0.005


def test_no_detections_are_a_score_of_0(scenes):
    found = score(scenes, [], masks=False, fold=0)
    assert found["box"]["AP"] == 0 and "mask" not in found and set(found["box"]["replicates"]) == {0.0}


def test_objects_without_groups_are_refused(drawn, tmp_path):
    content = json.loads((drawn / "fold-0" / "annotations" / "instances_val.json").read_text())
    for annotation in content["annotations"]:
        del annotation["group"]
    (tmp_path / "val").symlink_to(drawn / "fold-0" / "val")
    file = tmp_path / "instances_val.json"
    file.write_text(json.dumps(content))
    with pytest.raises(Exception, match="has no group"):
        open_scenes(file)
