"""`MCLForPreTraining`: online network, one predictor a level, EMA target network, contrastive loss.

Source: paper section 3; published code `openselfsup/models/mcl.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils import ModelOutput, logging

from .collectives import gather
from .configuration_mcl import MCLConfig
from .contrast import SIDES, MultiLevelContrast, TargetKeys, image_keys
from .modeling_mcl import MCLModel
from .montage import assemble_batch, check_montages, draw_montages
from .official_checkpoint import read_official_checkpoint
from .region_head import Predictor
from .view_batch import ViewBatchModel

logger = logging.get_logger(__name__)


@dataclass
class MCLForPreTrainingOutput(ModelOutput):
    """Output of `MCLForPreTraining`. Columns: queries of view a, queries of view b; zero for a side that was not run.

    Attributes:
        loss: Scalar, sum of `level_losses`.
        level_losses: `(L, 2)` contributions to the loss, weights included.
        random_losses: `(L, 2)` what they are where all keys look alike: about those of a random network.
        positive_similarity: `(L, 2)` mean cosine of queries and their keys.
        negative_similarity: `(L, 2)` mean cosine of queries and all other keys.
        feature_std: `(L, 2)` standard deviation over the queries, mean over the D components of normalised queries:
            0 when collapsed, about `1 / sqrt(D)` when spread out.
        queries: For each side that was run, L tensors `(Q, D)`: L2-normalised queries without gradient.
    """

    loss: torch.Tensor | None = None
    level_losses: torch.Tensor | None = None
    random_losses: torch.Tensor | None = None
    positive_similarity: torch.Tensor | None = None
    negative_similarity: torch.Tensor | None = None
    feature_std: torch.Tensor | None = None
    queries: tuple[tuple[torch.Tensor, ...], ...] | None = None


def _count_loaded(module: nn.Module) -> tuple[int, int]:
    """How many of a module's parameters transformers took from a checkpoint, and how many there are."""
    flags = [getattr(tensor, "_is_hf_initialized", False) for tensor in module.parameters()]
    return sum(flags), len(flags)


class MCLForPreTraining(ViewBatchModel):
    """Online network with one predictor a level, and the EMA target network it is contrasted with.

    `.mcl` is the online `MCLModel` (save it alone for use), `.predictors`, `.target` (no gradient) and `.contrast`.

    Example:
        >>> import torch
        >>> from mcl_hf import MCLConfig, MCLForPreTraining
        >>> config = MCLConfig(backbone="resnet18", fpn_channels=16, hidden_dim=32, region_size=2)
        >>> model = MCLForPreTraining(config)
        >>> def views(): return [torch.rand(4, 3, 64 // ratio, 64 // ratio) for ratio in config.montage_ratios]
        >>> output = model(views(), views())
        >>> output.loss.backward(); model.update_target(momentum=0.99)
        >>> tuple(output.level_losses.shape)
        (4, 2)
    """

    main_input_name = "views_a"
    _keys_to_ignore_on_load_missing = [r"^(target|predictors|contrast)\."]  # _init_weights counts them in one line

    def __init__(self, config: MCLConfig) -> None:
        super().__init__(config)
        levels = len(config.montage_ratios)
        self.mcl = MCLModel(config)
        self._built_on_meta = self.mcl._built_on_meta
        self.predictors = nn.ModuleList(Predictor(config.embedding_dim, config.hidden_dim) for _ in range(levels))
        self.target = MCLModel(config).requires_grad_(False)
        self.contrast = MultiLevelContrast(
            config.level_weights, config.temperature, config.level_pairing, config.queue_size, config.embedding_dim
        )
        self._mark_untrained_parameters()
        self.post_init()

    def _mark_untrained_parameters(self) -> None:
        super()._mark_untrained_parameters()
        self.target.requires_grad_(False)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if (
            module is self
        ):  # the last call, everything below is filled: what no checkpoint brought copies the online network
            self._warn_of_new_parts()
            for target, online in self._target_pairs():
                init.copy_(target, online)

    def _warn_of_new_parts(self) -> None:
        """Say so when a checkpoint brought the online network but not all of the rest (a slim folder)."""
        loaded = {part: _count_loaded(getattr(self, part)) for part in ("mcl", "target", "predictors")}
        if loaded["mcl"][0] and any(have < total for have, total in loaded.values()):
            counts = ", ".join(f"{part} {have}/{total}" for part, (have, total) in loaded.items())
            logger.warning(
                f"The checkpoint holds these parameters: {counts}. What is missing of the target starts as a copy "
                "of the online network, missing predictors start new."
            )

    @classmethod
    def from_official(
        cls, path: str | Path, dtype: torch.dtype = torch.float32, **overrides: Any
    ) -> "MCLForPreTraining":
        """Read a checkpoint of the published code (`.pth` of GuoQiushan/MCL); sizes are inferred from the tensors, and
        nothing is unpickled but tensors and plain values.

        Args:
            path: The `.pth` file.
            dtype: Of the model; `torch.float64` keeps every bit of float64 tensors.
            overrides: Fields of `MCLConfig` that a checkpoint does not hold (`montage_fractions`, `region_scope`, ...).

        Raises:
            ValueError: Not such a checkpoint; keys missing, unknown or of a wrong shape.
            FileNotFoundError: No such file.
        """
        fields, tensors = read_official_checkpoint(path)
        model = cls(MCLConfig(**{**fields, **overrides})).to(dtype)
        expected = {
            name: tensor.shape for name, tensor in model.state_dict().items() if not name.startswith("contrast.")
        }
        wrong = [name for name, shape in expected.items() if name not in tensors or tensors[name].shape != shape]
        extra = [name for name in tensors if name not in expected]
        if wrong or extra:
            raise ValueError(
                f"{path} does not fit the model: {len(wrong)} tensors missing or of another shape {wrong[:3]}, "
                f"{len(extra)} without a place {extra[:3]}"
            )
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                if name in tensors:
                    tensor.copy_(tensors[name])
        return model

    def _target_pairs(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(target, online) tensors, parameters and buffers."""
        online = dict([*self.mcl.named_parameters(), *self.mcl.named_buffers()])
        targets = [*self.target.named_parameters(), *self.target.named_buffers()]
        return [(tensor, online[name]) for name, tensor in targets]

    @torch.no_grad()
    def reset_target(self) -> None:
        """Make the target a copy of the online network, parameters and buffers."""
        for target, online in self._target_pairs():
            target.copy_(online)

    @torch.no_grad()
    def update_target(self, momentum: float) -> None:
        """`target <- momentum * target + (1 - momentum) * online` over parameters; batch-norm buffers stay (as
        published). To be called after the optimizer's step. ValueError: the momentum is outside of [0, 1]."""
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum must be between 0 and 1, got {momentum}")
        targets, online = list(self.target.parameters()), list(self.mcl.parameters())
        torch._foreach_lerp_(targets, online, 1.0 - momentum)

    def forward(
        self,
        views_a: Sequence[torch.Tensor],
        views_b: Sequence[torch.Tensor],
        montage_a: Sequence[torch.Tensor] | None = None,
        montage_b: Sequence[torch.Tensor] | None = None,
        generator: torch.Generator | None = None,
        group_ids: torch.Tensor | None = None,
        keys: TargetKeys | None = None,
        sides: Sequence[str] = SIDES,
    ) -> MCLForPreTrainingOutput:
        """Loss of a batch.

        To save memory run the sides in turn: `keys = model.compute_keys(...)`, then forward and backward with
        `sides=("a",)` and `sides=("b",)` and the same montages. Gradients add up to those of one call.

        Args:
            views_a, views_b: L float tensors `(N, num_channels, S/r, S/r)`, normalised; S = 32 * region_size.
            montage_a, montage_b: L - 1 int64 tensors of `B_i * r^2` image indices, row-major; drawn from `generator`
                when None.
            generator: CPU generator for montages that are not given.
            group_ids: `(N,)` int64; images of one group are never each other's negatives.
            keys: From `compute_keys`, when the sides are run in turn.
            sides: Whose queries to run.

        Raises:
            ValueError: Views, montages or group ids that do not fit, N below 2, an unknown side, or keys without the
                montages they were made with.
        """
        layout = self._check_views(views_a, "views_a")
        if self._check_views(views_b, "views_b") != layout:
            raise ValueError(
                f"views_a has {len(views_a[0])} images and views_b {len(views_b[0])}: views are of the same images"
            )
        if not sides or set(sides) - set(SIDES):
            raise ValueError(f"sides must be among {SIDES}, got {sides}")
        if group_ids is not None and group_ids.shape != (layout.num_images,):
            raise ValueError(f"group_ids must have shape ({layout.num_images},), got {tuple(group_ids.shape)}")
        if keys is not None and None in (montage_a, montage_b) and self._keys_need_montages:
            raise ValueError("pass montage_a and montage_b that the keys were computed with (see draw_montages)")
        views = {"a": views_a, "b": views_b}
        montages = {
            side: draw_montages(layout, generator) if montage is None else montage
            for side, montage in (("a", montage_a), ("b", montage_b))
        }
        if keys is None:
            keys = self.compute_keys(views_a, views_b, montages["a"], montages["b"])
        groups = None if group_ids is None else gather(group_ids.to(views_a[0].device))  # (W N,)

        outputs = {}
        for side in sides:
            check_montages(montages[side], layout)
            images = assemble_batch(views[side], montages[side], layout.ratios)  # (M, C, S, S)
            regions = self.mcl.embed_tiles(images, layout)  # L x (Q, D)
            queries = [predictor(level) for predictor, level in zip(self.predictors, regions, strict=True)]
            other = SIDES[1 - SIDES.index(side)]
            cells = self._cell_images(montages[side], layout, images.device)
            outputs[side] = self.contrast(queries, cells, keys.embeddings[other], keys.present[other], groups, other)

        keys.sides_left -= set(sides)
        if self.training and not keys.sides_left:
            self.contrast.enqueue(keys, groups)
        zeros = torch.zeros_like(outputs[sides[0]].level_losses)
        columns = {
            name: torch.stack([getattr(outputs[side], name) if side in outputs else zeros for side in SIDES], dim=1)
            for name in ("level_losses", "random_losses", "positive_similarity", "negative_similarity", "feature_std")
        }  # each (L, 2)
        vectors = tuple(outputs[side].queries for side in SIDES if side in outputs)
        return MCLForPreTrainingOutput(loss=columns["level_losses"].sum(), queries=vectors, **columns)

    @property
    def _keys_need_montages(self) -> bool:
        """Whether the target network sees montages at all."""
        return self.config.region_scope == "published" or self.config.level_pairing != "top"

    @torch.no_grad()
    def compute_keys(
        self,
        views_a: Sequence[torch.Tensor],
        views_b: Sequence[torch.Tensor],
        montage_a: Sequence[torch.Tensor] | None = None,
        montage_b: Sequence[torch.Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> TargetKeys:
        """Keys of both sides from the target network, gathered from all ranks; arguments as in `forward`. With
        `level_pairing="top"` in lean scope the target sees full views only, montages are unused."""
        embeddings: dict[str, list[torch.Tensor]] = {}
        present: dict[str, list[torch.Tensor] | None] = {}
        cells: list[torch.Tensor | None]
        for side, views, montage in (("a", views_a, montage_a), ("b", views_b, montage_b)):
            layout = self._check_views(views, f"views_{side}")
            if not self._keys_need_montages:
                regions, cells = self.target.embed_tiles(views[0], layout.only_level_0()), [None]
            else:
                montage = draw_montages(layout, generator) if montage is None else montage
                check_montages(montage, layout)
                regions = self.target.embed_tiles(assemble_batch(views, montage, layout.ratios), layout)
                cells = [None, *self._cell_images(montage, layout, views[0].device)[1:]]
            read = slice(self.contrast.target_levels)  # level 0 alone for pairing "top"
            levels = [
                image_keys(level if level.dtype == torch.float64 else level.float(), images, layout.num_images)
                for level, images in zip(regions[read], cells[read], strict=True)
            ]
            embeddings[side] = [gather(keys) for keys, _ in levels]  # T x (W N, D)
            only_top = self.contrast.target_levels == 1
            present[side] = None if only_top else [gather(has_tile) for _, has_tile in levels]
        return TargetKeys(embeddings, present)
