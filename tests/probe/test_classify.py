"""Classifiers on features whose answer is known."""

import pytest
import torch

from mcl_hf.probe.classify import knn_classes, linear_classes, nearest, summarise_levels


def blobs(seed: int, count: int = 60, classes: int = 3, noise: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    """Points around one-hot centres, `(count, classes)`, and their classes."""
    labels = torch.arange(count) % classes
    points = torch.eye(classes)[labels] + noise * torch.randn(
        count, classes, generator=torch.Generator().manual_seed(seed)
    )
    return points, labels


@pytest.mark.parametrize("classify", [knn_classes, linear_classes])
def test_separable_classes_are_found_and_shuffled_ones_are_not(classify):
    train, labels = blobs(0)
    asked, wanted = blobs(1)
    assert (classify(asked, train, labels) == wanted).double().mean() > 0.9
    shuffled = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(2))]
    assert (classify(asked, train, shuffled) == wanted).double().mean() < 0.7


def test_knn_is_a_vote_weighted_by_cosine():
    bank = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.02, 1.0], [-1.0, 0.0]])
    classes = torch.tensor([5, 2, 2, 0])
    assert knn_classes(torch.tensor([[0.9, 0.1], [0.1, 3.0], [-9.0, 0.1]]), bank, classes).tolist() == [5, 2, 0]
    assert knn_classes(torch.tensor([[0.1, 0.9]]), bank, classes, neighbours=1).tolist() == [2]


def test_the_linear_probe_is_logistic_regression_at_its_optimum_whatever_the_scale_of_components():
    train, labels = blobs(0, noise=0.8)
    asked, _ = blobs(1, noise=0.8)
    scale = torch.tensor([1e-3, 1.0, 1e3])
    constant = torch.full((len(train), 1), 7.0)
    wide = torch.cat([train * scale, constant], dim=1)
    first = linear_classes(torch.cat([asked * scale, constant], dim=1), wide, labels)
    assert torch.equal(first, linear_classes(asked, train, labels))
    with torch.no_grad():  # as a probe calls it
        assert torch.equal(first, linear_classes(asked, train, labels))


def test_nearest_goes_by_direction_alone():
    bank = torch.tensor([[10.0, 1.0], [0.0, 0.1]])
    assert nearest(torch.tensor([[0.0, 5.0], [1.0, 0.0]]), bank).tolist() == [1, 0]


def test_levels_are_summed_up_on_and_off_the_diagonal():
    table = [[0.9, 0.2], [0.4, 0.5]]
    assert summarise_levels(table) == {"across": table, "same_level": 0.7, "other_level": pytest.approx(0.3)}
    assert summarise_levels([[0.5]])["other_level"] is None
