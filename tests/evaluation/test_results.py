"""Results of several processes are those of one, to the last digit, however the images were dealt."""

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from mcl_hf.annotations.open_data import open_detection_data
from mcl_hf.errors import InputError
from mcl_hf.evaluation.evaluate import evaluate_detections
from mcl_hf.evaluation.results import ImageDetections, check_results, gather_results, merge_results, to_results
from tests.scenes import noisy_detections

WORLD = 3


def evaluate_a_share(rank: int, folder: Path, meeting_point: Path, out: Path) -> None:
    """One process's images, gathered and scored; the last process writes the figures, as any of them could."""
    dist.init_process_group("gloo", init_method=f"file://{meeting_point}", rank=rank, world_size=WORLD)
    data = open_detection_data(folder)
    indices = list(range(len(data)))
    indices += indices[:5]  # filled up as samplers do it: images come twice, to the same process and to another
    detections = noisy_detections(data)
    mine = [detections[index] for index in indices[rank::WORLD]]
    if rank == 1:
        mine.reverse()
    results = gather_results(to_results(mine, data), data)
    if rank == WORLD - 1:
        out.write_text(json.dumps(evaluate_detections(data, results).to_json()))
    dist.destroy_process_group()


def test_one_and_three_processes_agree_to_the_last_digit(scene_folder, scene_data, tmp_path):
    out = tmp_path / "metrics.json"
    # forked, as importing torch anew three times takes longer than all the rest
    context = multiprocessing.get_context("fork")
    arguments = (scene_folder, tmp_path / "meeting", out)
    workers = [context.Process(target=evaluate_a_share, args=(rank, *arguments)) for rank in range(WORLD)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=120)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    alone = evaluate_detections(scene_data, to_results(noisy_detections(scene_data), scene_data))
    assert json.loads(out.read_text()) == json.loads(json.dumps(alone.to_json()))


@pytest.mark.parametrize("seed", range(3))
def test_shards_merge_to_the_same_list_whatever_holds_what(scene_data, seed):
    detections = noisy_detections(scene_data)
    whole = to_results(detections, scene_data)
    numbers = np.random.default_rng(seed)
    dealt = numbers.integers(0, 4, len(detections))
    shards = []
    for shard in range(4):
        held = [detections[index] for index in numbers.permutation(np.flatnonzero(dealt == shard))]
        held += [detections[index] for index in numbers.integers(0, len(detections), 3)]  # again, elsewhere
        shards.append(to_results(list({id(image): image for image in held}.values()), scene_data))
    assert merge_results(shards, scene_data) == whole


def test_results_carry_the_data_sets_own_ids_and_every_bit(scene_data):
    boxes = np.array([[0.1, 0.2, 30.7, 40.9]], np.float32)
    image = ImageDetections(scene_data.image_ids[2], boxes, np.array([0.3], np.float32), np.array([1]))
    (result,) = to_results([image], scene_data)
    assert result["image_id"] == 3 and result["category_id"] == 6
    assert result["score"] == float(np.float32(0.3)) and "segmentation" not in result
    exact = boxes.astype(np.float64)[0]
    assert result["bbox"] == [exact[0], exact[1], exact[2] - exact[0], exact[3] - exact[1]]
    assert json.loads(json.dumps(result)) == result


def test_results_of_numpy_and_torch_are_scored_as_pythons_own(scene_data):
    results = to_results(noisy_detections(scene_data), scene_data)
    odd = [
        {**one, "image_id": np.int64(one["image_id"]), "score": np.float64(one["score"]), "bbox": np.array(one["bbox"])}
        for one in results
    ]
    odd[0] |= {"category_id": torch.tensor(odd[0]["category_id"]), "bbox": torch.tensor(odd[0]["bbox"])}
    assert check_results(odd, scene_data) == results
    with pytest.raises(InputError, match=r"result 1 has box \[nan"):
        check_results([{**odd[0], "bbox": np.full(4, np.nan)}], scene_data)


def test_of_two_shards_with_one_image_the_first_counts(scene_data):
    one, other = (to_results(noisy_detections(scene_data, seed), scene_data) for seed in (0, 1))
    first = [result for result in one if result["image_id"] in scene_data.image_ids[:10]]
    merged = merge_results([first, other], scene_data)
    covered = {result["image_id"] for result in first}
    assert [result for result in merged if result["image_id"] in covered] == first
    assert [result for result in merged if result["image_id"] not in covered] == [
        result for result in other if result["image_id"] not in covered
    ]
