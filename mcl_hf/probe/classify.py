"""Classes from features, without training the network: nearest neighbours and a linear classifier.

Flow: region_features -> **classify** -> object_probe. Pure functions on tensors; the same input gives the same output.

Source: kNN as in Wu et al. 2018 (arXiv 1805.01978, section 3.4): votes weighted by `exp(cosine / 0.07)`; the linear
classifier is the L2-regularised logistic regression that is usual for linear probes, fitted by L-BFGS.
"""

from typing import Any

import torch
import torch.nn.functional as F

NEIGHBOURS = 20
_VOTE_TEMPERATURE = 0.07


def knn_classes(
    queries: torch.Tensor, bank: torch.Tensor, bank_classes: torch.Tensor, neighbours: int = NEIGHBOURS
) -> torch.Tensor:
    """Class of each query by the vote of its nearest neighbours, B at most: `(Q, D)` and `(B, D)` float, classes `(B,)`
    int64 from 0 -> `(Q,)` int64."""
    cosines = _cosines(queries, bank)
    near = cosines.topk(min(neighbours, len(bank)), dim=1)
    votes = cosines.new_zeros(len(queries), int(bank_classes.max()) + 1)  # (Q, classes)
    votes.scatter_add_(1, bank_classes[near.indices], ((near.values - 1) / _VOTE_TEMPERATURE).exp())
    return votes.argmax(dim=1)


def linear_classes(queries: torch.Tensor, train: torch.Tensor, train_classes: torch.Tensor) -> torch.Tensor:
    """Class of each query by multinomial logistic regression, of shapes as in `knn_classes`.

    Minimised from zero by L-BFGS in float64, in 200 steps at most: `sum cross-entropy + |W|^2 / 2` over the training
    vectors (scikit-learn's C = 1), features standardised with their mean and standard deviation.
    """
    train, queries = train.double(), queries.double()
    mean, std = train.mean(dim=0), train.std(dim=0, correction=0)
    constant = std <= 1e-8 * train.abs().amax(dim=0)
    scale = torch.where(constant, torch.ones_like(std), std)  # a constant component becomes about zero, not noise
    train, queries = (train - mean) / scale, (queries - mean) / scale
    classes = int(train_classes.max()) + 1
    weight = train.new_zeros(classes, train.shape[1], requires_grad=True)
    bias = train.new_zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=200, tolerance_grad=1e-6, tolerance_change=1e-9, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(train @ weight.T + bias, train_classes)
        loss = loss + weight.square().sum() / (2 * len(train))
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own annotation is missing
        return loss

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call, unused-ignore]  # as above
    return (queries @ weight.detach().T + bias.detach()).argmax(dim=1)


def nearest(queries: torch.Tensor, bank: torch.Tensor) -> torch.Tensor:
    """Row of the bank with the largest cosine, `(Q, D)` and `(B, D)` -> `(Q,)` int64."""
    return _cosines(queries, bank).argmax(dim=1)


def _cosines(queries: torch.Tensor, bank: torch.Tensor) -> torch.Tensor:
    """`(Q, B)` float64."""
    return F.normalize(queries.double(), dim=1) @ F.normalize(bank.double(), dim=1).T


def share(right: torch.Tensor) -> float:
    """How much of a bool tensor is True, in [0, 1]."""
    return right.double().mean().item()


def summarise_levels(table: list[list[float]]) -> dict[str, Any]:
    """A square table of shares, queries' level by bank's level, with the means of its diagonal and of the rest."""
    same = sum(table[index][index] for index in range(len(table)))
    others = len(table) ** 2 - len(table)
    return {
        "across": table,
        "same_level": same / len(table),
        "other_level": (sum(map(sum, table)) - same) / others if others else None,
    }
