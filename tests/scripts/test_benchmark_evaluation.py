"""The benchmark's data are the same each time, and it prints what it says."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import benchmark_evaluation


def test_the_data_follow_from_the_seed_and_fit_the_images():
    data, results = benchmark_evaluation.synthetic(20, 5)
    again, same = benchmark_evaluation.synthetic(20, 5)
    assert results == same and (data.columns.bbox == again.columns.bbox).all()
    for box in [*data.columns.bbox.tolist(), *(result["bbox"] for result in results)]:
        assert box[0] >= 0 and box[1] >= 0 and box[0] + box[2] <= 640.01 and box[1] + box[3] <= 480.01 and min(box) >= 0


def test_it_prints_times_ratios_and_differences(capsys):
    pytest.importorskip("faster_coco_eval")
    benchmark_evaluation.main(["--images", "10", "--classes", "3", "--back-ends", "faster-coco-eval"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("synthetic data, seed 0: 10 images")
    fast = [line for line in lines if line.strip().startswith("faster-coco-eval")]
    assert len(fast) == 2 and all(float(line.split("difference of a figure")[1].split()[0]) < 1e-12 for line in fast)
