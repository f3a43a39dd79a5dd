"""The figures are pycocotools' own, to the last digit, whichever library counts."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest

from mcl_hf.annotations.open_data import open_detection_data
from mcl_hf.errors import InputError
from mcl_hf.evaluation.coco_metrics import BACKENDS, FIGURES, count_matches, import_backend
from mcl_hf.evaluation.results import to_results
from tests.scenes import noisy_detections


def directly(annotations: Path, results: list[dict], kind: str, use_categories: bool) -> list[float | None]:
    """COCOeval's twelve as its own documentation says to get them; masks without boxes, as COCO's server wants them."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    if kind == "segm":
        results = [{key: value for key, value in result.items() if key != "bbox"} for result in results]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(json.loads(json.dumps(results))), kind)
        evaluation.params.useCats = int(use_categories)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [None if value == -1 else float(value) for value in evaluation.stats]


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("use_categories", [True, False])
def test_the_figures_are_those_of_pycocotools_called_directly(scene_folder, scene_data, kind, use_categories):
    results = to_results(noisy_detections(scene_data), scene_data)
    expected = directly(scene_folder / "annotations" / "instances_train.json", results, kind, use_categories)
    arrays = count_matches(scene_data, results, kind, class_agnostic=not use_categories)
    assert list(arrays.figures().values()) == expected
    assert list(arrays.figures()) == list(FIGURES)
    assert 0.1 < expected[0] < 0.9  # neither trivial nor hopeless


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "pycocotools"])
@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("class_agnostic", [False, True])
def test_fast_back_ends_count_the_same(scene_data, backend, kind, class_agnostic):
    pytest.importorskip(BACKENDS[backend])
    for seed in range(3):
        results = to_results(noisy_detections(scene_data, seed), scene_data)
        record = count_matches(scene_data, results, kind, class_agnostic=class_agnostic)
        fast = count_matches(scene_data, results, kind, backend, class_agnostic)
        assert np.array_equal(record.recall, fast.recall)
        if backend == "faster-coco-eval":  # pycocotools adds 2e-16 to the number that it divides by
            assert np.abs(record.precision - fast.precision).max() <= 2.3e-16
            known = {name: value for name, value in record.figures().items() if value is not None}
            assert known == pytest.approx({name: fast.figures()[name] for name in known}, rel=0, abs=1e-15)
        else:
            assert np.array_equal(record.precision, fast.precision)
            assert record.figures() == fast.figures()


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_detections_score_nothing(scene_data, backend):
    pytest.importorskip(BACKENDS[backend])
    figures = count_matches(scene_data, [], "segm", backend).figures()
    assert figures["AP"] == 0 and figures["AR100"] == 0 and figures["APl"] is None  # scenes have nothing that large


def test_image_ids_may_be_texts_and_ids_may_start_at_zero(scene_folder, tmp_path):
    """pycocotools alone would take the object with id 0 for never found; the figures must not depend on ids."""
    content = json.loads((scene_folder / "annotations" / "instances_train.json").read_text())
    renamed = json.loads(json.dumps(content))
    for number, annotation in enumerate(renamed["annotations"]):
        annotation["id"] = number
    for entry, key in [(image, "id") for image in renamed["images"]] + [
        (annotation, "image_id") for annotation in renamed["annotations"]
    ]:
        entry[key] = f"scene-{entry[key]:03d}"
    for folder, json_content in (("plain", content), ("renamed", renamed)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "annotations.json").write_text(json.dumps(json_content))
    figures = []
    for folder in ("plain", "renamed"):
        data = open_detection_data(tmp_path / folder, images=scene_folder / "train")
        results = to_results(noisy_detections(data), data)
        figures.append([count_matches(data, results, kind).figures() for kind in ("bbox", "segm")])
    assert figures[0] == figures[1]
    assert "zero" in str(data.report)


def test_curves_fall_from_the_first_recall(scene_data):
    arrays = count_matches(scene_data, to_results(noisy_detections(scene_data), scene_data), "bbox")
    curve = arrays.curve(0)
    assert curve.shape == (101,) and (np.diff(curve) <= 0).all() and curve[0] > curve[-1]
    assert (arrays.curve(0, 0.9) <= curve).all() and arrays.curve(0, 0.9).sum() < curve.sum()
    assert arrays.figures(0)["AP50"] == np.mean(curve)


def test_a_back_end_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(BACKENDS, "faster-coco-eval", "no_such_module_here")
    with pytest.raises(InputError, match=r"faster-coco-eval is not installed: pip install 'mcl_hf\[fast-coco\]'"):
        import_backend("faster-coco-eval")
    with pytest.raises(InputError, match="choose from pycocotools, faster-coco-eval"):
        import_backend("coco")


def test_objects_of_equal_overlap_are_taken_in_pycocotools_order(scene_folder, tmp_path):
    """Two objects overlap the first detection by as much; which of them it takes decides whether the second finds one.
    Over all classes as one, pycocotools looks at them class after class, not in the order of the file."""
    box = {"image_id": 1, "iscrowd": 0, "area": 100}
    content = {
        "images": [{"id": 1, "file_name": "0000.png", "width": 128, "height": 96}],
        "annotations": [
            {"id": 1, "category_id": 6, "bbox": [0, 0, 10, 10], **box},
            {"id": 2, "category_id": 3, "bbox": [4, 0, 10, 10], **box},
        ],
        "categories": [{"id": 3, "name": "a"}, {"id": 6, "name": "b"}],
    }
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    results = [
        {"image_id": 1, "category_id": 6, "bbox": [2, 0, 10, 10], "score": 0.9},
        {"image_id": 1, "category_id": 6, "bbox": [0, 0, 10, 10], "score": 0.8},
    ]
    data = open_detection_data(tmp_path, images=scene_folder / "train")
    expected = directly(tmp_path / "annotations.json", results, "bbox", False)
    assert list(count_matches(data, results, "bbox", class_agnostic=True).figures().values()) == expected
    content["annotations"].reverse()
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    assert directly(tmp_path / "annotations.json", results, "bbox", False) == expected
