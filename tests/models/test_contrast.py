import math

import pytest
import torch
import torch.nn.functional as F

from mcl_hf import MultiLevelContrast
from mcl_hf.models.contrast import TargetKeys, image_keys, paired_levels, region_contrast


def vectors(rows: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, 6, generator=generator, dtype=torch.float64), dim=1)


def test_loss_is_scaled_cross_entropy() -> None:
    queries, keys, labels = vectors(5), vectors(4, 1), torch.tensor([0, 1, 2, 3, 3])
    loss, positive, negative = region_contrast(queries, keys, labels, temperature=0.5)
    cosines = [[sum(a * b for a, b in zip(q, k, strict=True)) for k in keys.tolist()] for q in queries.tolist()]
    each = [
        math.log(sum(math.exp(c / 0.5) for c in row)) - row[y] / 0.5
        for row, y in zip(cosines, labels.tolist(), strict=True)
    ]
    assert loss.item() == pytest.approx(2 * 0.5 * sum(each) / 5)
    positives = [row[y] for row, y in zip(cosines, labels.tolist(), strict=True)]
    assert positive.item() == pytest.approx(sum(positives) / 5)
    assert negative.item() == pytest.approx((sum(map(sum, cosines)) - sum(positives)) / (5 * 4 - 5))


def test_excluded_columns_are_as_if_absent() -> None:
    queries, keys, labels = vectors(3), vectors(5, 1), torch.tensor([0, 1, 2])
    excluded = torch.tensor([False, False, False, True, True])
    for with_mask, without in zip(
        region_contrast(queries, keys, labels, excluded=excluded),
        region_contrast(queries, keys[:3], labels),
        strict=True,
    ):
        assert with_mask.item() == pytest.approx(without.item())


def test_query_without_its_positive_takes_no_part() -> None:
    queries, keys, labels = vectors(3), vectors(3, 1), torch.tensor([0, 1, 2])
    excluded = torch.tensor([False, True, False])
    found = region_contrast(queries, keys, labels, excluded=excluded)
    expected = region_contrast(queries[[0, 2]], keys[[0, 2]], torch.tensor([0, 1]))
    assert [value.item() for value in found] == pytest.approx([value.item() for value in expected])


def test_keys_of_tiles_are_normalised_means() -> None:
    regions, cells = torch.randn(4, 6), torch.tensor([2, 0, 2, 0])
    keys, present = image_keys(regions, cells, num_images=3)
    assert present.tolist() == [True, False, True]
    assert torch.allclose(keys[2], F.normalize(regions[[0, 2]].mean(dim=0), dim=0), atol=1e-6)


@pytest.mark.parametrize(
    ("pairing", "expected"),
    [
        ("top", [[0], [0], [0]]),
        ("same", [[0], [1], [2]]),
        ("adjacent", [[0, 1], [0, 1, 2], [1, 2]]),
        ("all", [[0, 1, 2]] * 3),
    ],
)
def test_paired_levels(pairing: str, expected: list[list[int]]) -> None:
    assert [paired_levels(level, 3, pairing) for level in range(3)] == expected


def run(contrast: MultiLevelContrast, keys: torch.Tensor, group_ids: torch.Tensor | None = None):
    labels = torch.arange(len(keys))
    return contrast([vectors(len(keys), 7)], [labels], [keys], group_ids=group_ids)


def test_groups_are_no_negatives_of_each_other() -> None:
    keys, contrast = vectors(4, 1), MultiLevelContrast([1.0])
    grouped = run(contrast, keys, torch.tensor([5, 5, 6, 7]))
    queries = vectors(4, 7)
    kept = {0: [0, 2, 3], 1: [1, 2, 3], 2: [0, 1, 2, 3], 3: [0, 1, 2, 3]}  # images 0 and 1 are one group
    each = [
        region_contrast(queries[[image]], keys[columns], torch.tensor([columns.index(image)]))[0]
        for image, columns in kept.items()
    ]
    assert grouped.level_losses.item() == pytest.approx(sum(each).item() / 4, abs=1e-9)
    assert run(contrast, keys, torch.tensor([1, 2, 3, 4])).level_losses.item() == pytest.approx(
        run(contrast, keys).level_losses.item()
    )


def filled(contrast: MultiLevelContrast, keys: torch.Tensor, groups: torch.Tensor | None = None) -> None:
    contrast.enqueue(TargetKeys({"a": [keys], "b": [keys]}, {"a": None, "b": None}), groups)


def test_queue_adds_past_keys_as_negatives() -> None:
    contrast = MultiLevelContrast([1.0], queue_size=3, embedding_dim=6).double()
    keys, past = vectors(2, 1), vectors(2, 2)
    empty = run(contrast, keys).level_losses.item()
    assert empty == pytest.approx(run(MultiLevelContrast([1.0]), keys).level_losses.item())
    filled(contrast, past)
    expected = region_contrast(vectors(2, 7), torch.cat([keys, past]), torch.arange(2))
    found = run(contrast, keys)
    assert found.level_losses.item() == pytest.approx(expected[0].item(), abs=1e-6)
    assert found.negative_similarity.item() == pytest.approx(expected[2].item(), abs=1e-6)


def test_queue_overwrites_the_oldest_and_knows_groups() -> None:
    contrast = MultiLevelContrast([1.0], queue_size=3, embedding_dim=6).double()
    first, second = vectors(2, 2), vectors(2, 3)
    filled(contrast, first, torch.tensor([1, 2]))
    filled(contrast, second, torch.tensor([3, 4]))
    assert torch.equal(contrast.queue[0, 0], torch.stack([second[1], first[1], second[0]]))
    keys = vectors(2, 1)
    masked = run(contrast, keys, torch.tensor([3, 9])).level_losses.item()  # queue holds groups 4, 2, 3
    all_keys, queries = torch.cat([keys, contrast.queue[0, 0]]), vectors(2, 7)
    expected = (
        region_contrast(queries[:1], all_keys[:-1], torch.tensor([0]))[0]
        + region_contrast(queries[1:], all_keys, torch.tensor([1]))[0]
    )
    assert masked == pytest.approx(expected.item() / 2, abs=1e-6)


def test_batch_larger_than_the_queue() -> None:
    contrast = MultiLevelContrast([1.0], queue_size=3, embedding_dim=6).double()
    keys = vectors(5, 2)
    filled(contrast, keys)
    assert torch.equal(contrast.queue[1, 0], keys[-3:]) and contrast.queue_present.all()


@pytest.mark.skipif(
    torch.__version__.startswith("2.6.") and not torch.cuda.is_available(), reason="its fake tensors ask for a driver"
)
@pytest.mark.parametrize("grouped", [True, False])
def test_the_queue_takes_no_number_from_the_host(grouped):
    """CUDA alone copies a Python number of an index assignment to the device, and the host waits."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode

    class Assignments(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten.index_put_.default:
                values.append(args[2].device.type)
            return function(*args, **(kwargs or {}))

    values = []
    with FakeTensorMode(allow_non_fake_inputs=False), Assignments():
        contrast = MultiLevelContrast([1.0], queue_size=8, embedding_dim=4)
        for name, buffer in list(contrast._buffers.items()):
            contrast._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda:0")
        keys = torch.empty(4, 4, device="cuda:0")
        groups = torch.empty(4, dtype=torch.int64, device="cuda:0") if grouped else None
        contrast.enqueue(TargetKeys({"a": [keys], "b": [keys]}, {"a": None, "b": None}), groups)
    assert len(values) == 5 and set(values) == {"cuda"}
