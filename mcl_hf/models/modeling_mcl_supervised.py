"""`MCLForSupervisedPreTraining`: supervised MCL, one linear classifier a level.

Source: the paper's last experiment, in words only: the published code does not contain it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers.utils import ModelOutput

from .configuration_mcl import MCLConfig
from .modeling_mcl import MCLModel
from .montage import assemble_batch, check_montages, draw_montages
from .view_batch import ViewBatchModel
from .weight_init import init_linear


@dataclass
class MCLForSupervisedPreTrainingOutput(ModelOutput):
    """Output of `MCLForSupervisedPreTraining`.

    Attributes:
        loss: Scalar, sum of `level_losses`.
        level_losses: `(L,)`, weights included.
        random_losses: `(L,)` what they are where all classes look alike.
        accuracy: `(L,)` share of tiles classified rightly.
        feature_std: `(L,)` standard deviation over the tiles, mean over the D components of normalised embeddings.
        queries: A tuple of one side: L tensors `(Q, D)` of these embeddings, without gradient.
    """

    loss: torch.Tensor | None = None
    level_losses: torch.Tensor | None = None
    random_losses: torch.Tensor | None = None
    accuracy: torch.Tensor | None = None
    feature_std: torch.Tensor | None = None
    queries: tuple[tuple[torch.Tensor, ...], ...] | None = None


class MCLForSupervisedPreTraining(ViewBatchModel):
    """Supervised MCL: every tile is classified with its image's label, by one linear classifier a level, on the same
    montages, backbone, FPN and region head; no target network. The folder also opens as `MCLModel` and `MCLBackbone`.
    """

    main_input_name = "views"

    def __init__(self, config: MCLConfig) -> None:
        super().__init__(config)
        self.mcl = MCLModel(config)
        self._built_on_meta = self.mcl._built_on_meta
        self.classifiers = nn.ModuleList(
            nn.Linear(config.embedding_dim, config.num_labels) for _ in config.montage_ratios
        )
        for classifier in self.classifiers:
            init_linear(classifier, std=0.01)
        self._mark_untrained_parameters()
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if self._built_on_meta and any(module is classifier for classifier in self.classifiers):
            init_linear(module, std=0.01)

    def forward(
        self,
        views: Sequence[torch.Tensor],
        labels: torch.Tensor,
        montage: Sequence[torch.Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> MCLForSupervisedPreTrainingOutput:
        """Loss of a batch.

        Args:
            views: L float tensors `(N, num_channels, S/r, S/r)`, normalised.
            labels: `(N,)` int64 class of each image, 0 to `num_labels` - 1.
            montage: L - 1 int64 tensors of image indices; drawn from `generator` when None.
            generator: CPU generator.

        Raises:
            ValueError: Views, montages or labels that do not fit.
        """
        layout = self._check_views(views, "views")
        if labels.shape != (layout.num_images,):
            raise ValueError(f"labels must have shape ({layout.num_images},), got {tuple(labels.shape)}")
        montage = draw_montages(layout, generator) if montage is None else montage
        check_montages(montage, layout)
        images = assemble_batch(views, montage, layout.ratios)  # (M, C, S, S)
        regions = self.mcl.embed_tiles(images, layout)  # L x (Q, D)
        cells = self._cell_images(montage, layout, images.device)
        losses, accuracies = [], []
        for level, (classifier, embeddings, images_of_cells) in enumerate(
            zip(self.classifiers, regions, cells, strict=True)
        ):
            logits = classifier(embeddings).float()  # (Q, num_labels)
            classes = labels[images_of_cells]  # (Q,)
            losses.append(self.config.level_weights[level] * F.cross_entropy(logits, classes))
            accuracies.append((logits.detach().argmax(dim=1) == classes).float().mean())
        level_losses = torch.stack(losses)
        chance = math.log(max(self.config.num_labels, 1))
        vectors = tuple(F.normalize(embeddings.detach().float(), dim=1) for embeddings in regions)  # L x (Q, D)
        return MCLForSupervisedPreTrainingOutput(
            loss=level_losses.sum(),
            level_losses=level_losses,
            random_losses=torch.stack([torch.full_like(losses[0], w * chance) for w in self.config.level_weights]),
            accuracy=torch.stack(accuracies),
            feature_std=torch.stack([level.std(dim=0, correction=0).mean() for level in vectors]),
            queries=(vectors,),
        )
