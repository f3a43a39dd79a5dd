"""The benchmark's file opens, and it prints what it says."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import benchmark_annotations

from mcl_hf.detection import open_detection_data


def test_the_file_opens_and_times_are_printed(tmp_path, capsys):
    objects = benchmark_annotations.write_coco(tmp_path / "x.json", 200)
    data = open_detection_data(tmp_path / "x.json", images=tmp_path, check_files=False)
    assert len(data.columns.labels) == objects > 1000 and data.columns.iscrowd.any() and data.has_masks
    benchmark_annotations.main(["--images", "20", "--files", "30", "--repeats", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("folder of 30 images, open_source ")
    assert lines[1].startswith("20 images, ") and "ratio" in lines[2]
