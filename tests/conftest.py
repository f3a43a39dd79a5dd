"""What tests of several folders share: a Hub of their own and written scenes. Nothing is made that no test asks for."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from mcl_hf.annotations.detection_data import DetectionData
from mcl_hf.annotations.open_data import open_detection_data
from tests.hub_client import Done, Forge
from tests.hub_server import Hub
from tests.scenes import add_crowds, write_scenes

LONGEST = (
    "models/test_published_numbers.py", "comparison/test_compare.py", "finetuning/test_finetune_faults.py",
    "training/test_host_sync.py", "training/test_many_processes.py", "training/test_pretrain.py", "test_project.py",
    "scripts/test_benchmark_step.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take minutes come first: where files are shared out to processes, none is left alone with one."""
    ranks = {Path(__file__).parent / name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


@pytest.fixture(scope="session")
def _hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with Hub(tmp_path_factory.mktemp("hub")) as running:
        yield running


@pytest.fixture(scope="session")
def _forge(_hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forge]:
    forge = Forge(_hub.endpoint, tmp_path_factory.mktemp("clients"))
    yield forge
    forge.close()


@pytest.fixture
def hub(_hub: Hub) -> Iterator[Hub]:
    """The session's Hub (`tests/hub_server.py`), empty, without faults or limits."""
    _hub.forget()
    _hub.store.clear()
    yield _hub
    _hub.forget()


@pytest.fixture
def client(hub: Hub, _forge: Forge, tmp_path: Path) -> Callable[..., Done]:
    """`client(code, token="hf_alice", ...)` runs Python code in a fresh process that talks to `hub`; see `Forge.run`.
    Its cache and its folder are `tmp_path / "client"` unless `home=` names another."""
    return partial(_forge.run, home=tmp_path / "client")


@pytest.fixture
def command(hub: Hub, _forge: Forge, tmp_path: Path) -> Callable[..., Done]:
    """`command("push", ..., token="hf_alice")` runs `mcl-hf push ...` likewise."""
    return partial(_forge.command, home=tmp_path / "client")


@pytest.fixture(scope="session")
def scene_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 scenes of four classes with polygons, every fifth annotation a crowd."""
    folder = write_scenes(tmp_path_factory.mktemp("scenes"), 24, num_classes=4, most_objects=4, size=(0.15, 0.6))
    add_crowds(folder / "annotations" / "instances_train.json", every=5)
    return folder


@pytest.fixture(scope="session")
def scene_data(scene_folder: Path) -> DetectionData:
    return open_detection_data(scene_folder)
