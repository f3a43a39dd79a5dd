"""A whole evaluation: perfect predictions, wrong predictions, files, and what the table and the JSON say."""

import json

import pytest

from mcl_hf.annotations.open_data import open_detection_data
from mcl_hf.errors import InputError
from mcl_hf.evaluation.evaluate import evaluate_detections
from mcl_hf.evaluation.results import ground_truth_results, read_results, to_results, write_results
from tests.scenes import noisy_detections, write_scenes


def test_ground_truth_fed_back_scores_one(scene_data):
    metrics = evaluate_detections(scene_data, ground_truth_results(scene_data))
    for kind in (metrics.box, metrics.mask):
        for figures in (kind.figures, kind.class_agnostic, *kind.per_class.values()):
            # 1 up to the last bits: pycocotools divides by the count plus 2e-16
            assert figures["AP"] == pytest.approx(1, abs=1e-12) and figures["AR100"] == 1
    assert metrics.num_objects == int(scene_data.num_objects.sum()) and metrics.voc is None


def test_a_missing_object_and_a_wrong_class_cost(scene_data):
    results = ground_truth_results(scene_data)
    assert evaluate_detections(scene_data, results[1:]).box.figures["AP"] < 0.99
    other = next(c for c in scene_data.category_ids if c != results[0]["category_id"])
    swapped = evaluate_detections(scene_data, [{**results[0], "category_id": other}, *results[1:]])
    assert swapped.box.figures["AP"] < 0.99 and swapped.box.class_agnostic["AP"] > 0.999


def test_a_file_scores_as_what_was_written(scene_data, tmp_path):
    results = to_results(noisy_detections(scene_data), scene_data)
    write_results(tmp_path / "deep" / "results.json", results)
    assert read_results(tmp_path / "deep" / "results.json", scene_data) == results
    from_file = evaluate_detections(scene_data, tmp_path / "deep" / "results.json").to_json()
    assert from_file == evaluate_detections(scene_data, results).to_json()


def test_json_and_table(scene_data):
    metrics = evaluate_detections(scene_data, to_results(noisy_detections(scene_data), scene_data))
    content = json.loads(json.dumps(metrics.to_json()))
    assert content["box"]["AP"] == metrics.box.figures["AP"] and content["mask"]["APl"] is None
    assert set(content["box"]["per_class"]) == set(scene_data.category_names)
    assert len(content["mask"]["precision_at_recalls"]["ellipse"]) == 101
    lines = metrics.lines(most_classes=2)
    assert f"{100 * metrics.mask.figures['AP']:.1f}" in next(line for line in lines if line.startswith("mask "))
    assert lines[-1].strip() == "... 2 more classes in the JSON"


def test_boxes_alone_and_masks_alone(scene_data):
    results = to_results(noisy_detections(scene_data), scene_data)
    boxes = [{key: value for key, value in result.items() if key != "segmentation"} for result in results]
    masks = [{key: value for key, value in result.items() if key != "bbox"} for result in results]
    whole = evaluate_detections(scene_data, results)
    assert evaluate_detections(scene_data, boxes).mask is None
    assert evaluate_detections(scene_data, boxes).box.figures == whole.box.figures
    assert evaluate_detections(scene_data, masks).mask.figures == whole.mask.figures
    with pytest.raises(InputError, match="1 of 2 predictions have none"):
        evaluate_detections(scene_data, [boxes[0], results[1]], masks=True)
    assert evaluate_detections(scene_data, [], masks=True).mask.figures["AP"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 999}, "of image 999, which is not in"),
        ({"category_id": 1}, "not class indices"),
        ({"bbox": [1, 2, 3]}, "four and one finite"),
        ({"score": float("nan")}, "four and one finite"),
        ({"segmentation": {"size": [128, 96], "counts": "0"}}, r"result 4: its mask cannot be scored: .*\[128, 96\]"),
        ({"segmentation": {"size": [96, 128]}}, "its mask cannot be scored: run lengths without size and counts"),
        ({"segmentation": 3}, "its mask cannot be scored: int instead"),
    ],
)
def test_results_of_other_data_are_refused(scene_data, change, message):
    results = ground_truth_results(scene_data)
    with pytest.raises(InputError, match=message):
        evaluate_detections(scene_data, [*results[:3], {**results[3], **change}])


@pytest.mark.parametrize(
    ("text", "message"),
    [("{}", "holds a dict"), ("[", "is no JSON"), ('[{"image_id": 1}]', "result 1 lacks"), (None, "cannot be read")],
)
def test_files_that_are_no_results_are_refused(scene_data, tmp_path, text, message):
    file = tmp_path / "results.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InputError, match=message):
        evaluate_detections(scene_data, file)


def test_classes_without_objects_have_no_rows(tmp_path):
    folder = write_scenes(tmp_path, 3, num_classes=3, masks=None)
    file = folder / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    content["categories"] += [{"id": 100 + n, "name": f"class {n}"} for n in range(77)]
    file.write_text(json.dumps(content))
    data = open_detection_data(folder)
    present = {data.category_names[label] for label in data.columns.labels}
    metrics = evaluate_detections(data, ground_truth_results(data))
    rows = [line for line in metrics.lines() if line.startswith("  ") and line[2] != " "]
    assert {row[2:18].strip() for row in rows[:-1]} == {name[:16] for name in present} and len(rows) == len(present) + 1
    assert f"classes without objects: {80 - len(present)}, left out" in rows[-1]
    assert len(metrics.box.per_class) == 80
