from pathlib import Path

import numpy as np
import pytest
from scenes.compose import compose_scene, compose_single
from scenes.cutouts import load_index
from scenes.pool import Pool, draw, make_pool

from mcl_hf.errors import InputError


@pytest.fixture(scope="module")
def pool(cutouts: Path) -> Pool:
    return make_pool(load_index(cutouts), 0, "train")


def test_masks_are_disjoint_and_only_extras_are_unlabelled(pool: Pool, cutouts: Path) -> None:
    labelled = unlabelled = 0
    for seed in range(12):
        scene = compose_scene(pool, cutouts, 64, np.random.default_rng(seed), distractor_rate=0.5)
        assert scene.image.size == (64, 64)
        covered = sum(instance.visible.astype(int) for instance in scene.instances)
        assert np.max(covered) <= 1
        for instance in scene.instances:
            assert instance.visible.sum() <= instance.whole_px
            assert instance.labelled == (instance.row["label"] != "extra")
            assert instance.labelled or instance.row["distractor"]
            labelled, unlabelled = labelled + instance.labelled, unlabelled + (not instance.labelled)
    assert 0.25 < unlabelled / labelled < 0.75


def test_without_a_rate_there_is_no_distractor_and_a_seed_gives_one_scene(pool: Pool, cutouts: Path) -> None:
    first, again, other = (compose_scene(pool, cutouts, 48, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert all(instance.labelled for instance in first.instances)
    assert first.image.tobytes() == again.image.tobytes() != other.image.tobytes()


def test_the_ways_of_blending_differ_in_pixels_and_not_in_the_first_mask(pool: Pool, cutouts: Path) -> None:
    scenes = [compose_scene(pool, cutouts, 48, np.random.default_rng(5), way) for way in ("feathered", "poisson")]
    assert scenes[0].image.tobytes() != scenes[1].image.tobytes()
    assert [scene.blending for scene in scenes] == ["feathered", "poisson"]


def test_a_single_picture_shows_one_object_of_the_training_groups(pool: Pool, cutouts: Path) -> None:
    rows = [compose_single(pool, cutouts, 32, np.random.default_rng(seed))[1] for seed in range(60)]
    groups = {group for part in (*pool.objects.values(), pool.extras) for group in part}
    assert {row["group"] for row in rows} <= groups
    assert {row["label"] for row in rows} == {"disc", "box", "sign", "extra"}


def test_no_group_and_no_place_is_in_two_splits_and_all_are_in_one(cutouts: Path) -> None:
    index = load_index(cutouts)
    for fold in (0, 5):
        pools = [make_pool(index, fold, split) for split in ("train", "val", "test")]
        for part in (
            [{group for groups in pool.objects.values() for group in groups} for pool in pools],
            [set(pool.extras) for pool in pools],
            [set(pool.backgrounds) for pool in pools],
        ):
            assert sum(map(len, part)) == len(set.union(*part))
        assert sum(len(groups) for pool in pools for groups in pool.objects.values()) == 36
        assert [pool.num_groups()["disc"] for pool in pools] == [8, 2, 2]


def test_options_move_no_group_to_another_split(cutouts: Path) -> None:
    index = load_index(cutouts)
    everything = make_pool(index, 1, "train").objects["disc"]
    free = make_pool(index, 1, "train", public_domain=True)
    assert set(free.objects) == {"disc"} and set(free.objects["disc"]) < set(everything)
    assert not free.distractors
    fifth = make_pool(index, 1, "train", percent=20, seed=2)
    assert [len(groups) for groups in fifth.objects.values()] == [2, 2, 2]
    assert len(fifth.backgrounds) == 8 and len(fifth.distractors) == len(make_pool(index, 1, "train").distractors)


def test_people_are_left_out_of_what_may_be_shown(cutouts: Path) -> None:
    index = load_index(cutouts)
    people = [row | {"label": "person"} if row["label"] == "disc" else row for row in index["objects"]]
    index |= {"classes": ["person", "box", "sign"], "objects": people}
    assert "person" in make_pool(index, 0, "train").objects
    with pytest.raises(InputError, match="no cut-outs"):
        make_pool(index, 0, "train", public_domain=True)  # the free ones are all of people


def test_a_split_with_nothing_to_show_is_refused(cutouts: Path) -> None:
    index = load_index(cutouts) | {"backgrounds": []}
    with pytest.raises(InputError, match="fold 0 has no cut-outs or no backgrounds for its val split"):
        make_pool(index, 0, "val")


def test_a_group_is_drawn_as_often_as_another_however_many_pictures_it_has() -> None:
    groups = {"one": [{"id": 0}], "many": [{"id": number} for number in range(1, 20)]}
    rng = np.random.default_rng(0)
    assert 400 < sum(draw(groups, rng)["id"] == 0 for _ in range(1000)) < 600
