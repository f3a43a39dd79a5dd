"""The multi-level contrastive loss: queries of every level against keys of the target network. Last stage of the flow.

`p = normalize(query)`, `logits = p . key / T`; a query's positive is the key of its own image, every other image on
every rank is a negative (and so are past keys when a queue is used). A level's loss is `w * 2T * cross-entropy`.

Source: paper section 3.3; published code `openselfsup/models/heads/` and `openselfsup/models/mcl.py`. Not published:
level pairings other than `top`, groups whose members are no negatives of each other, and the queue.
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

from .collectives import rank, world_size

SIDES = ("a", "b")


@dataclass
class TargetKeys:
    """What the target network says of a batch, gathered from all ranks; from `MCLForPreTraining.compute_keys`.

    Attributes:
        embeddings: For each view side, T tensors `(K, D)` of L2-normalised keys, one a target level; `K = W * N`.
        present: For each view side, T bool tensors `(K,)`: the image has a tile at that level; None where all have.
        sides_left: Sides whose queries have not met the keys yet; the queue is filled when none is left.
    """

    embeddings: dict[str, list[torch.Tensor]]
    present: dict[str, list[torch.Tensor] | None]
    sides_left: set[str] = field(default_factory=lambda: set(SIDES))


@dataclass
class ContrastOutput:
    """Losses and health numbers of one side, each `(L,)`; and L tensors `(Q, D)` of normalised queries, detached."""

    level_losses: torch.Tensor
    random_losses: torch.Tensor
    positive_similarity: torch.Tensor
    negative_similarity: torch.Tensor
    feature_std: torch.Tensor
    queries: tuple[torch.Tensor, ...]


def image_keys(
    regions: torch.Tensor, cell_images: torch.Tensor | None, num_images: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """One key an image from the embeddings `(Q, D)` of a level's tiles: `(N, D)` L2-normalised means, and `(N,)` bool:
    the image has a tile here. `cell_images` is `(Q,)` int64; None when tile j is image j (level 0)."""
    if cell_images is None:
        return F.normalize(regions, dim=1), torch.ones(num_images, dtype=torch.bool, device=regions.device)
    sums = regions.new_zeros(num_images, regions.shape[1]).index_add_(0, cell_images, regions)
    tiles = regions.new_zeros(num_images).index_add_(0, cell_images, regions.new_ones(len(cell_images)))
    return F.normalize(sums, dim=1), tiles > 0  # the mean's direction is the sum's


def region_contrast(
    queries: torch.Tensor,
    keys: torch.Tensor,
    labels: torch.Tensor,
    temperature: float = 1.0,
    excluded: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cross-entropy of queries over keys, with its cosines.

    Args:
        queries: `(Q, D)` L2-normalised.
        keys: `(K, D)` L2-normalised, no gradient.
        labels: `(Q,)` int64 column of each query's positive.
        temperature: T.
        excluded: `(Q, K)` or `(K,)` bool, columns that are neither positive nor negative of a query. A query whose
            positive is excluded takes no part.

    Returns:
        Scalars: `2T * mean cross-entropy`, mean cosine to positives, mean cosine to negatives.
    """
    # Cosines in at least float32 whatever the autocast: bf16 would round a cosine near 1 to steps of 1/128.
    device_type = queries.device.type
    with torch.autocast(device_type, enabled=False) if torch.amp.is_autocast_available(device_type) else nullcontext():
        cosines = queries @ keys.T  # (Q, D) x (D, K) -> (Q, K)
    rows = torch.arange(len(labels), device=labels.device)
    positives = cosines[rows, labels]  # (Q,)
    if excluded is None:
        loss = 2 * temperature * F.cross_entropy(cosines / temperature, labels)
        positive = positives.detach().mean()
        count = cosines.numel() - len(labels)
        return loss, positive, (cosines.detach().sum() - positives.detach().sum()) / max(count, 1)
    excluded = excluded.expand_as(cosines)
    valid = ~excluded[rows, labels]  # (Q,)
    num_valid = valid.sum().clamp(min=1)
    logits = (cosines / temperature).masked_fill(excluded & valid[:, None], float("-inf"))
    each = F.cross_entropy(logits, labels, reduction="none")
    loss = 2 * temperature * each.where(valid, 0).sum() / num_valid
    negatives = (~excluded & valid[:, None]).scatter(1, labels[:, None], False)
    cosines, positives = cosines.detach(), positives.detach()
    negative = cosines.where(negatives, 0).sum() / negatives.sum().clamp(min=1)
    return loss, positives.where(valid, 0).sum() / num_valid, negative


def random_loss(
    num_keys: int, labels: torch.Tensor, temperature: float = 1.0, excluded: torch.Tensor | None = None
) -> torch.Tensor:
    """`region_contrast` of a network to which all keys look alike: `2T * mean ln(keys that a query is held against)`. A
    random network's loss is about that, a collapsed one's exactly."""
    if excluded is None:
        return torch.full((), 2 * temperature * math.log(num_keys), device=labels.device)
    excluded = excluded.expand(len(labels), num_keys)
    valid = ~excluded.gather(1, labels[:, None]).squeeze(1)  # (Q,)
    logarithms = (~excluded).sum(dim=1).clamp(min=1).float().log()  # (Q,)
    return 2 * temperature * logarithms.where(valid, 0).sum() / valid.sum().clamp(min=1)


def paired_levels(level: int, num_levels: int, pairing: str) -> list[int]:
    """Target levels that a query level is compared with (`MCLConfig.level_pairing`)."""
    if pairing == "top":
        return [0]
    reach = {"same": 0, "adjacent": 1, "all": num_levels}[pairing]
    return [target for target in range(num_levels) if abs(target - level) <= reach]


class MultiLevelContrast(nn.Module):
    """The loss over levels, with its queue of past keys.

    `loss = sum over levels of w_i * mean over paired levels of 2T * CE(normalize(q_i) . keys / T)` for one side; the
    caller sums both (as published).

    Args:
        level_weights: w of each level.
        temperature: T.
        level_pairing: `"top"`, `"same"`, `"adjacent"` or `"all"`.
        queue_size: Past keys kept a side and target level; 0 for none.
        embedding_dim: D, needed for the queue alone.

    With one level and ratio 1 this is MoCo v3's loss; with `queue_size` it gains MoCo's queue.

    Example:
        >>> import torch
        >>> from mcl_hf import MultiLevelContrast
        >>> contrast = MultiLevelContrast(level_weights=[1.0])
        >>> eye = torch.eye(3)
        >>> output = contrast([eye], [torch.arange(3)], [eye])
        >>> round(output.positive_similarity.item(), 3), round(output.negative_similarity.item(), 3)
        (1.0, 0.0)
    """

    queue: torch.Tensor
    queue_present: torch.Tensor
    queue_groups: torch.Tensor
    queue_pointer: torch.Tensor

    def __init__(
        self,
        level_weights: Sequence[float],
        temperature: float = 1.0,
        level_pairing: str = "top",
        queue_size: int = 0,
        embedding_dim: int = 256,
    ) -> None:
        super().__init__()
        self.level_weights = tuple(level_weights)
        self.temperature = temperature
        self.level_pairing = level_pairing
        self.queue_size = queue_size
        self.target_levels = 1 if level_pairing == "top" else len(self.level_weights)
        if queue_size:
            shape = (len(SIDES), self.target_levels, queue_size)
            self.register_buffer("queue", torch.zeros(*shape, embedding_dim))
            self.register_buffer("queue_present", torch.zeros(shape, dtype=torch.bool))
            self.register_buffer("queue_groups", torch.zeros(queue_size, dtype=torch.int64))
            self.register_buffer("queue_pointer", torch.zeros(1, dtype=torch.int64))

    def reset_parameters(self) -> None:
        """Empty the queue."""
        if self.queue_size:
            for buffer in (self.queue, self.queue_present, self.queue_groups, self.queue_pointer):
                nn.init.zeros_(buffer)

    def forward(
        self,
        queries: Sequence[torch.Tensor],
        cell_images: Sequence[torch.Tensor],
        keys: Sequence[torch.Tensor],
        present: Sequence[torch.Tensor] | None = None,
        group_ids: torch.Tensor | None = None,
        key_side: str = "b",
    ) -> ContrastOutput:
        """Loss of one side.

        Args:
            queries: L tensors `(Q, D)`, not normalised.
            cell_images: L tensors `(Q,)` int64: the image of each query within this rank's batch.
            keys: T tensors `(W * N, D)`, L2-normalised, T being 1 for pairing `top` and L otherwise.
            present: T tensors `(W * N,)` bool; None when every image has a key at every level.
            group_ids: `(W * N,)` int64 of all ranks: images of one group are no negatives of each other.
            key_side: Side the keys come from, which selects the queue.
        """
        losses, chances, positives, negatives, stds, vectors = [], [], [], [], [], []
        for level, (raw, images) in enumerate(zip(queries, cell_images, strict=True)):
            wide = raw if raw.dtype == torch.float64 else raw.float()
            normalised = F.normalize(wide, dim=1)  # (Q, D)
            columns = images + rank() * (len(keys[0]) // world_size())  # this rank's block of the gathered keys
            results = []
            for target in paired_levels(level, len(queries), self.level_pairing):
                all_keys, excluded = self._columns(keys, present, target, columns, group_ids, key_side)
                chance = random_loss(len(all_keys), columns, self.temperature, excluded)
                results.append(
                    (chance, *region_contrast(normalised, all_keys.to(wide.dtype), columns, self.temperature, excluded))
                )
            chance, loss, positive, negative = (torch.stack(values).mean() for values in zip(*results, strict=True))
            losses.append(self.level_weights[level] * loss)
            chances.append(self.level_weights[level] * chance)
            positives.append(positive)
            negatives.append(negative)
            vectors.append(normalised.detach())
            stds.append(vectors[-1].std(dim=0, correction=0).mean())
        loss, chance, positive, negative, std = map(torch.stack, (losses, chances, positives, negatives, stds))
        return ContrastOutput(loss, chance, positive, negative, std, tuple(vectors))

    def _columns(
        self,
        keys: Sequence[torch.Tensor],
        present: Sequence[torch.Tensor] | None,
        target: int,
        columns: torch.Tensor,
        group_ids: torch.Tensor | None,
        key_side: str,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Keys of one target level, then the queue: `(K', D)`; and what to leave out: `(Q, K')`, `(K',)` or None."""
        all_keys: torch.Tensor = keys[target]
        absent: torch.Tensor | None = None if present is None else ~present[target]
        if self.queue_size:
            side = SIDES.index(key_side)
            if absent is None:
                absent = torch.zeros(len(all_keys), dtype=torch.bool, device=all_keys.device)
            absent = torch.cat([absent, self.queue_present[side, target].logical_not()])
            all_keys = torch.cat([all_keys, self.queue[side, target].to(all_keys.dtype)])
        if group_ids is None:
            return all_keys, absent
        own_group = group_ids[columns][:, None]  # (Q, 1)
        same_group = own_group == group_ids  # (Q, K)
        same_group = same_group.scatter(1, columns[:, None], False)  # an image is its own positive
        if self.queue_size:
            same_group = torch.cat([same_group, own_group == self.queue_groups], dim=1)
        return all_keys, same_group if absent is None else same_group | absent

    @torch.no_grad()
    def enqueue(self, keys: TargetKeys, group_ids: torch.Tensor | None = None) -> None:
        """Put both sides' keys into the queue, over the oldest; the same on all ranks, without a device sync. Without
        `group_ids` `(W * N,)` int64 past keys are never excluded by group."""
        if not self.queue_size:
            return
        batch = len(keys.embeddings["a"][0])
        rows = min(batch, self.queue_size)
        slots = (self.queue_pointer + torch.arange(rows, device=self.queue.device)) % self.queue_size
        for index, side in enumerate(SIDES):
            for target, embeddings in enumerate(keys.embeddings[side]):
                self.queue[index, target][slots] = embeddings[-rows:].to(self.queue.dtype)
                present = keys.present[side]
                here = torch.ones_like(slots, dtype=torch.bool) if present is None else present[target][-rows:]
                self.queue_present[index, target][slots] = here  # a number would be copied to the device each time
        self.queue_groups[slots] = torch.full_like(slots, -1) if group_ids is None else group_ids[-rows:]
        self.queue_pointer.add_(rows).remainder_(self.queue_size)
