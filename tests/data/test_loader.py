"""Batches follow from (seed, step, rank) alone, and a broken image costs itself alone."""

import io
import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mcl_hf.data import ViewBatch, ViewLoader, open_source
from mcl_hf.data.open import ImageSource
from mcl_hf.errors import InputError

SMALL = {"view_size": 32, "ratios": (1, 2, 4), "batch_size": 4, "seed": 11}


def write_images(root: Path, count: int, classes: int = 2) -> str:
    rng = np.random.default_rng(0)
    for number in range(count):
        folder = root / f"class{number % classes}"
        folder.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(buffer, "JPEG")
        (folder / f"{number:04d}.jpg").write_bytes(buffer.getvalue())
    return str(root)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ImageSource:
    return open_source(write_images(tmp_path_factory.mktemp("images"), 50), group_column="folder")


def take(loader: ViewLoader, count: int) -> list[ViewBatch]:
    return list(itertools.islice(loader, count))


def assert_equal(ones: list[ViewBatch], others: list[ViewBatch]) -> None:
    assert len(ones) == len(others)
    for one, other in zip(ones, others, strict=True):
        assert one.step == other.step
        assert torch.equal(one.sample_ids, other.sample_ids)
        assert one.broken == other.broken
        for left, right in zip(one.views_a + one.views_b, other.views_a + other.views_b, strict=True):
            assert torch.equal(left, right)


def test_shapes_types_labels_and_groups(source: ImageSource) -> None:
    (batch,) = take(ViewLoader(source, **SMALL), 1)
    assert [tuple(view.shape) for view in batch.views_a] == [(4, 3, 32, 32), (4, 3, 16, 16), (4, 3, 8, 8)]
    assert [tuple(view.shape) for view in batch.views_b] == [(4, 3, 32, 32), (4, 3, 16, 16), (4, 3, 8, 8)]
    assert all(view.dtype == torch.uint8 and view.is_contiguous() for view in batch.views_a + batch.views_b)
    assert batch.sample_ids.dtype == batch.labels.dtype == batch.group_ids.dtype == torch.int64
    assert batch.labels.tolist() == [source.sample(int(index)).label for index in batch.sample_ids]
    assert batch.group_ids.tolist() == [source.sample(int(index)).group for index in batch.sample_ids]
    assert batch.broken == []


def test_one_side_is_the_first_side_of_two(source: ImageSource) -> None:
    (one,) = take(ViewLoader(source, **SMALL, sides=1), 1)
    (two,) = take(ViewLoader(source, **SMALL), 1)
    assert one.views_b is None
    assert all(torch.equal(left, right) for left, right in zip(one.views_a, two.views_a, strict=True))


@pytest.mark.parametrize("rendering", ["direct", "published"])
def test_gray(source: ImageSource, rendering: str) -> None:
    (batch,) = take(ViewLoader(source, **SMALL, num_channels=1, view_rendering=rendering), 1)
    assert batch.views_a[0].shape == (4, 1, 32, 32)


@pytest.mark.parametrize("num_workers", [0, 1, 2])
@pytest.mark.parametrize("start_step", [0, 5, 13, 40])
def test_any_step_comes_out_the_same_with_any_number_of_workers(
    source: ImageSource, num_workers: int, start_step: int
) -> None:
    whole = take(ViewLoader(source, **SMALL), 44)
    continued = take(ViewLoader(source, **SMALL, start_step=start_step, num_workers=num_workers), 4)
    assert_equal(continued, whole[start_step : start_step + 4])


def test_spawned_workers(source: ImageSource) -> None:
    loader = ViewLoader(source, **SMALL, num_workers=1, start_method="spawn")
    assert_equal(take(loader, 3), take(ViewLoader(source, **SMALL), 3))


def test_threads_of_the_caller_stay_as_they_were(source: ImageSource) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        take(ViewLoader(source, **SMALL), 1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_ranks_share_a_global_batch_without_overlap(source: ImageSource) -> None:
    whole = take(ViewLoader(source, **{**SMALL, "batch_size": 12}), 6)
    ranks = [take(ViewLoader(source, **SMALL, rank=rank, world_size=3), 6) for rank in range(3)]
    for step, batch in enumerate(whole):
        parts = [ranks[rank][step] for rank in range(3)]
        assert torch.cat([part.sample_ids for part in parts]).equal(batch.sample_ids)
        assert torch.cat([part.views_b[1] for part in parts]).equal(batch.views_b[1])


def test_an_epoch_takes_no_image_twice_and_epochs_differ(source: ImageSource) -> None:
    loader = ViewLoader(source, **SMALL)
    assert loader.steps_per_epoch == 12
    ids = torch.stack([batch.sample_ids for batch in take(loader, 24)]).reshape(2, 48)
    assert len(set(ids[0].tolist())) == len(set(ids[1].tolist())) == 48
    assert not torch.equal(ids[0], ids[1])
    again = {
        int(index): batch.views_a[0][slot] for batch in take(loader, 12) for slot, index in enumerate(batch.sample_ids)
    }
    second = take(ViewLoader(source, **SMALL, start_step=12), 1)[0]
    assert not any(
        torch.equal(again[int(i)], second.views_a[0][s]) for s, i in enumerate(second.sample_ids) if int(i) in again
    )


def test_seeds_change_order_and_views(source: ImageSource) -> None:
    (one,), (two,) = take(ViewLoader(source, **SMALL), 1), take(ViewLoader(source, **{**SMALL, "seed": 12}), 1)
    assert not torch.equal(one.sample_ids, two.sample_ids)


def test_the_loader_can_be_pickled_and_a_batch_too(source: ImageSource) -> None:
    (batch,) = take(pickle.loads(pickle.dumps(ViewLoader(source, **SMALL))), 1)
    assert_equal([pickle.loads(pickle.dumps(batch))], take(ViewLoader(source, **SMALL), 1))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_broken_image_costs_itself(tmp_path: Path, num_workers: int) -> None:
    data = write_images(tmp_path, 40)
    loader = ViewLoader(open_source(data), **SMALL, max_broken=1.0)
    whole = take(loader, 10)
    target = int(whole[3].sample_ids[2])
    Path(open_source(data).sample(target).name).write_bytes(b"<html>gone</html>")
    found = take(ViewLoader(open_source(data), **SMALL, max_broken=1.0, num_workers=num_workers), 10)
    assert_equal(found[:3] + found[4:], whole[:3] + whole[4:])
    assert len(found[3].broken) == 1
    assert "not an image" in found[3].broken[0]
    assert open_source(data).name(target) in found[3].broken[0]
    assert int(found[3].sample_ids[2]) != target
    for slot in (0, 1, 3):
        assert torch.equal(found[3].views_a[0][slot], whole[3].views_a[0][slot])
    assert_equal(found, take(ViewLoader(open_source(data), **SMALL, max_broken=1.0), 10))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_too_many_broken_images_stop_the_run_with_examples(tmp_path: Path, num_workers: int) -> None:
    data = write_images(tmp_path / "plant: one", 40)  # the line of a broken image has a colon after its name, too
    for path in sorted(tmp_path.rglob("*.jpg"))[::4]:
        path.write_bytes(b"")
    loader = ViewLoader(open_source(data), **SMALL, max_broken=0.1, num_workers=num_workers)
    seen = []
    with pytest.raises(InputError) as caught:
        for batch in itertools.islice(loader, 100):
            seen.append(batch)
    assert 24 <= len(seen) <= 26  # judged from 100 images on
    assert "more than the share of 0.1" in str(caught.value)
    assert "zero bytes" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(take(ViewLoader(open_source(data), **SMALL, max_broken=0.9), 30)) == 30


def test_one_broken_image_in_a_small_folder_does_not_stop_a_long_run(tmp_path: Path) -> None:
    data = write_images(tmp_path, 20)
    next(iter(sorted(tmp_path.rglob("*.jpg")))).write_bytes(b"")  # 5 % of the folder, met again every epoch
    loader = ViewLoader(open_source(data), **SMALL, max_broken=0.01)
    assert len(take(loader, 60)) == 60 and loader.broken_seen > 5


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_folder_without_a_single_image_in_it_stops_at_once(tmp_path: Path, num_workers: int) -> None:
    for number in range(8):
        (tmp_path / f"{number}.jpg").write_bytes(b"<html>")
    with pytest.raises(InputError, match="stand-ins are all broken") as caught:
        take(ViewLoader(open_source(str(tmp_path)), **SMALL, num_workers=num_workers), 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 60}, "batch size of at most 50"),
        ({"batch_size": 30, "world_size": 2}, "batch size of at most 25 per process"),
        ({"batch_size": 2, "world_size": 40}, "use at most 25 processes"),  # batch norm needs two images in each
        ({"batch_size": 1, "world_size": 60}, "at most 50 processes"),
        ({"batch_size": 0}, "at least 1"),
        ({"ratios": (1, 3)}, "divides the view size"),
        ({"ratios": ()}, "divides the view size"),
        ({"rank": 1}, "ranks go from 0 to 0"),
        ({"view_rendering": "fast"}, "direct, published"),
        ({"sides": 3}, "2 (both"),
        ({"num_channels": 0}, "at least one"),
        ({"num_channels": 4, "view_rendering": "published"}, "1 and 3 channels, not 4"),
        ({"augment_on": "gpu"}, "cpu, device"),
        ({"augment_on": "device", "view_rendering": "published"}, "for view_rendering 'direct'"),
        ({"max_broken": 2.0}, "between 0 and 1"),
        ({"start_step": -1}, "count from 0"),
    ],
)
def test_settings_that_cannot_work(source: ImageSource, changes: dict, message: str) -> None:
    with pytest.raises(InputError) as caught:
        ViewLoader(source, **{**SMALL, **changes})
    assert message in str(caught.value)
