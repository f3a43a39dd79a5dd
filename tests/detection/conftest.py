"""Scenes that several test files read; each session writes them once."""

from pathlib import Path

import pytest

from mcl_hf.detection.data.detection_data import DetectionData
from mcl_hf.detection.data.open_data import open_detection_data
from tests.detection.scenes import add_crowds, write_scenes


@pytest.fixture(scope="session")
def scene_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 scenes of four classes with polygons, every fifth annotation a crowd."""
    folder = write_scenes(tmp_path_factory.mktemp("scenes"), 24, num_classes=4, most_objects=4, size=(0.15, 0.6))
    add_crowds(folder / "annotations" / "instances_train.json", every=5)
    return folder


@pytest.fixture(scope="session")
def scene_data(scene_folder: Path) -> DetectionData:
    return open_detection_data(scene_folder)
