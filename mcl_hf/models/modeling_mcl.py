"""`MCLBackbone` (C2..C5) and `MCLModel` (backbone, FPN, region head) as transformers models.

One folder serves all: inside of the pre-training models tensors have the prefix `mcl.`, which transformers strips or
adds by itself.

Source: paper section 3.2; published code `openselfsup/models/mcl.py` (encoder_q).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.backbone_utils import BackboneMixin
from transformers.modeling_outputs import BackboneOutput
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_mcl import MCLConfig
from .contrast import MultiLevelContrast
from .fpn import FeaturePyramid
from .montage import MontageLayout
from .recompute import find_block_classes, keep_activations, recompute_activations
from .region_cut import cut_regions, to_rois
from .region_head import Predictor, RegionHead
from .timm_backbone import build_timm_network, describe_backbone, run_timm_network

_SELF_INITIALISING = (FeaturePyramid, RegionHead, Predictor, MultiLevelContrast)


@dataclass
class MCLModelOutput(ModelOutput):
    """Output of `MCLModel`.

    Attributes:
        feature_maps: P2..P5, `(N, fpn_channels, H/4, W/4)` to `(N, fpn_channels, H/32, W/32)`.
        backbone_feature_maps: C2..C5 at the same strides, channels of the backbone's stages.
        hidden_states: The maps of all stages, the stem's among them where there is one; where asked for.
    """

    feature_maps: tuple[torch.Tensor, ...] | None = None
    backbone_feature_maps: tuple[torch.Tensor, ...] | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None


class MCLPreTrainedModel(PreTrainedModel):
    """What all MCL models share: configuration, prefix, and initialisation that leaves timm's own alone."""

    config: MCLConfig
    base_model_prefix = "mcl"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules: list[str] = []

    def _add_timm_network(self, config: MCLConfig) -> None:
        """Build `self.backbone`; loaded models start on meta, and their values are still to come."""
        self.backbone = build_timm_network(config.backbone, config.num_channels, config.backbone_kwargs)
        self._built_on_meta = any(tensor.is_meta for tensor in self.backbone.parameters())
        self._no_split_modules = find_block_classes(self.backbone)

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether the backbone recomputes its cheap activations (`recompute_activations`), whoever asks for it:
        transformers' methods, Trainer's option, and models around this one set this."""
        return getattr(self, "_recomputes", False)

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, enable: bool) -> None:
        backbone = self._modules.get("backbone")
        if backbone is None or enable == self.gradient_checkpointing:
            return
        if enable:
            recompute_activations(backbone)
        else:
            keep_activations(backbone)
        self._recomputes = enable

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Any = checkpoint, **options: Any
    ) -> None:
        """transformers' switch, which knows of layers and of memory on the host: neither is how this works."""
        function = getattr(gradient_checkpointing_func, "func", gradient_checkpointing_func)
        if enable and (function is not checkpoint or options.get("every_n_layers", 1) != 1):
            raise ValueError(
                "every_n_layers and offload are for layers that are checkpointed; this backbone recomputes norms and "
                "activations alone: leave both out"
            )
        super()._set_gradient_checkpointing(enable, gradient_checkpointing_func, **options)

    def get_input_embeddings(self) -> nn.Module:
        """The convolution that reads the pixels."""
        return next(module for module in self.modules() if isinstance(module, nn.Conv2d))

    def _run_backbone(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        """`(N, num_channels, H, W)` -> the maps of all stages, the stem's first where there is one."""
        maps = run_timm_network(self.backbone, self.config.backbone, pixel_values)
        return [maps[position] for position in self._positions]

    def _wants_hidden_states(self, output_hidden_states: bool | None) -> bool:
        return bool(self.config.output_hidden_states if output_hidden_states is None else output_hidden_states)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Fill what a checkpoint has not filled in a model that was built on the meta device (`from_pretrained`): on
        real devices every part initialises itself. A timm network's tensors, non-persistent buffers included, are those
        of a fresh network."""
        if not self._built_on_meta:
            return
        if module is getattr(self, "backbone", None):
            _fill_from_fresh_network(module, self.config)
        elif isinstance(module, _SELF_INITIALISING):
            module.reset_parameters()

    @torch.no_grad()
    @init.guard_torch_init_functions()  # tensors that were loaded stay as they are
    def initialize_weights(self) -> None:
        """Part by part, as wholes: transformers' own walk leaves out modules of others' code without own tensors."""
        for child in self.children():
            if isinstance(child, MCLPreTrainedModel):
                child.initialize_weights()
            else:
                for module in child.modules():
                    self._init_weights(module)
        self._init_weights(self)


def _fill_from_fresh_network(network: nn.Module, config: MCLConfig) -> None:
    """Copy a newly initialised network's tensors over those of `network` that were not loaded."""
    tensors = dict([*network.named_parameters(), *network.named_buffers()])
    empty = {name for name, tensor in tensors.items() if not getattr(tensor, "_is_hf_initialized", False)}
    if not empty:
        return
    with torch.device("cpu"):
        fresh = build_timm_network(config.backbone, config.num_channels, config.backbone_kwargs)
    for name, tensor in [*fresh.named_parameters(), *fresh.named_buffers()]:
        if name in empty:
            init.copy_(tensors[name], tensor)


class MCLBackbone(BackboneMixin, MCLPreTrainedModel):
    """The backbone alone, for any transformers model that takes a `backbone_config`.

    Opens every MCL folder (slim, pre-training, supervised): all but the backbone's tensors are left out.

    Example:
        >>> import torch
        >>> from mcl_hf import MCLBackbone, MCLConfig
        >>> backbone = MCLBackbone(MCLConfig(backbone="resnet18"))
        >>> [tuple(map.shape) for map in backbone(torch.rand(1, 3, 64, 64)).feature_maps]
        [(1, 64, 16, 16), (1, 128, 8, 8), (1, 256, 4, 4), (1, 512, 2, 2)]
    """

    has_attentions = False
    _keys_to_ignore_on_load_unexpected = [
        r"^(mcl\.)?(fpn|region_head)\.",
        r"^(target|predictors|contrast|classifiers)\.",
    ]

    def __init__(self, config: MCLConfig) -> None:
        super().__init__(config)
        self._add_timm_network(config)
        description = describe_backbone(config.backbone, config.num_channels, config.backbone_kwargs)
        self.num_features = list(description.channels)
        self._positions = description.positions
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs: Any,
    ) -> BackboneOutput:
        """Feature maps of `config.out_features`, one `(N, C, H/stride, W/stride)` tensor each.

        Args:
            pixel_values: `(N, num_channels, H, W)` float, normalised with the configuration's mean and std.
            output_hidden_states: Also return the maps of all stages.
            output_attentions: Accepted and ignored: these networks return none.
        """
        stages = dict(zip(self.stage_names, self._run_backbone(pixel_values), strict=True))
        return BackboneOutput(
            feature_maps=tuple(stages[name] for name in self.out_features),
            hidden_states=tuple(stages.values()) if self._wants_hidden_states(output_hidden_states) else None,
        )


class MCLModel(MCLPreTrainedModel):
    """Backbone, FPN and region head: what MCL pre-trains and a detector starts from.

    Example:
        >>> import torch
        >>> from mcl_hf import MCLConfig, MCLModel
        >>> model = MCLModel(MCLConfig(backbone="resnet18", fpn_channels=32, hidden_dim=64)).eval()
        >>> [tuple(map.shape[1:]) for map in model(torch.rand(1, 3, 64, 96)).feature_maps]
        [(32, 16, 24), (32, 8, 12), (32, 4, 6), (32, 2, 3)]
        >>> tuple(model.embed_regions(torch.rand(1, 3, 64, 96), [torch.tensor([[0.0, 0.0, 56.0, 56.0]])]).shape)
        (1, 256)
    """

    _keys_to_ignore_on_load_unexpected = [r"^(target|predictors|contrast|classifiers)\."]

    def __init__(self, config: MCLConfig) -> None:
        super().__init__(config)
        self._add_timm_network(config)
        description = describe_backbone(config.backbone, config.num_channels, config.backbone_kwargs)
        self._positions = description.positions
        self.fpn = FeaturePyramid(description.channels[-4:], config.fpn_channels)
        self.region_head = RegionHead(
            config.fpn_channels, config.region_size, config.region_convs, config.hidden_dim, config.embedding_dim
        )
        self.post_init()

    def backbone_maps(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        """`(N, num_channels, H, W)` -> C2..C5."""
        return self._run_backbone(pixel_values)[-4:]

    @can_return_tuple
    def forward(
        self, pixel_values: torch.Tensor, output_hidden_states: bool | None = None, **kwargs: Any
    ) -> MCLModelOutput:
        """P2..P5 and C2..C5 of whole images.

        Args:
            pixel_values: `(N, num_channels, H, W)` float, normalised with the configuration's mean and std.
            output_hidden_states: Also return the maps of all stages.
        """
        stages = self._run_backbone(pixel_values)
        return MCLModelOutput(
            feature_maps=tuple(self.fpn(stages[-4:])),
            backbone_feature_maps=tuple(stages[-4:]),
            hidden_states=tuple(stages) if self._wants_hidden_states(output_hidden_states) else None,
        )

    def embed_regions(self, pixel_values: torch.Tensor, boxes: Sequence[torch.Tensor]) -> torch.Tensor:
        """One embedding a box, read from the pyramid level on which the box is about R cells wide, as in pre-training:
        a full view gives the embedding that pre-training contrasts.

        Args:
            pixel_values: `(N, num_channels, H, W)` float, normalised.
            boxes: For each image a `(n_i, 4)` tensor of x0, y0, x1, y1 in pixels of `pixel_values`.

        Returns:
            `(sum n_i, embedding_dim)`, in the order of the boxes; not normalised.

        Raises:
            ValueError: Not one tensor `(n, 4)` an image, or (looked at on the CPU only) a box without area in it.
        """
        if len(boxes) != len(pixel_values):
            raise ValueError(f"embed_regions got boxes of {len(boxes)} images for {len(pixel_values)} images")
        if any(image_boxes.dim() != 2 or image_boxes.shape[1] != 4 for image_boxes in boxes):
            raise ValueError("embed_regions needs one (n, 4) tensor of x0, y0, x1, y1 in pixels for each image")
        height, width = pixel_values.shape[-2:]
        for image_boxes in boxes:
            if image_boxes.device.type == "cpu" and len(image_boxes):
                x0, y0, x1, y1 = image_boxes.unbind(dim=1)
                useless = (x1 <= x0) | (y1 <= y0) | (x0 >= width) | (y0 >= height) | (x1 <= 0) | (y1 <= 0)
                if useless.any():
                    raise ValueError(
                        f"box {image_boxes[useless][0].tolist()} (x0, y0, x1, y1) has no area within an image of "
                        f"{width} x {height} px: boxes are in pixels of pixel_values, after any resizing"
                    )
        regions, _ = self.cut_boxes(self.fpn(self.backbone_maps(pixel_values)), boxes)
        return self.region_head.embed(regions)

    def cut_boxes(
        self, pyramid: Sequence[torch.Tensor], boxes: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cut boxes, one `(n_i, 4)` tensor of x0, y0, x1, y1 in pixels an image, out of the maps P2..P5 that fit their
        sizes, by RoIAlign.

        Returns:
            `(K, fpn_channels, R, R)` regions in the order of the boxes, and `(K,)` int64: the map that each was read
            from, 0 for P2 to 3 for P5.
        """
        rois = to_rois(boxes, pyramid[0])  # (K, 5): image, x0, y0, x1, y1
        region_size = self.config.region_size
        sides = ((rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])).clamp(min=1e-6).sqrt()  # (K,) px
        levels = torch.log2(sides / region_size / 4).round().clamp(0, 3).long()  # stride = side / R = 4 * 2^level
        return cut_regions(pyramid, rois, levels, region_size, sampling_ratio=0), levels

    def embed_tiles(self, images: torch.Tensor, layout: MontageLayout) -> list[torch.Tensor]:
        """For each level the embeddings `(Q, D)` of its tiles, row-major over (image, row, column), read from its own
        level of the pyramid (`MCLConfig.region_scope`).

        Args:
            images: `(M, num_channels, S, S)`, level 0 first, then the montages of each level (`assemble_batch`).
            layout: Which images belong to which level.
        """
        maps = self.backbone_maps(images)
        read_maps = self.config.level_maps[: len(layout.counts)]
        if self.config.region_scope == "lean":
            pyramid = self.fpn(maps, reads=dict(zip(read_maps, layout.slices, strict=True)))
            return [self.region_head(pyramid[index]) for index in read_maps]
        tiles = [self.region_head(level_map) for level_map in self.fpn(maps)]  # P2..P5, each (M * cells, D)
        by_image = [embeddings.unflatten(0, (len(images), -1)) for embeddings in tiles]  # (M, cells, D)
        return [
            by_image[index][images_of_level].flatten(0, 1)
            for index, images_of_level in zip(read_maps, layout.slices, strict=True)
        ]
