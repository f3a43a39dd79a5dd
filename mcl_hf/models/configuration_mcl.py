"""`MCLConfig`: the one configuration of every MCL model, and a backbone configuration for transformers' detectors.

Numbers are the paper's (section 4) as the published code has them (`configs/selfsup/mcl/*.py`); names are ours.
"""

from collections.abc import Mapping
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.backbone_utils import BackboneConfigMixin

from .timm_backbone import describe_backbone

LEVEL_PAIRINGS = ("top", "same", "adjacent", "all")
REGION_SCOPES = ("lean", "published")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


_FRACTIONS = {1: 1, 2: 1 / 4, 4: 1 / 16, 8: 1 / 32}
_DERIVED = {
    "backbone": ("stage_names", "out_indices"),  # out_features are names, which most backbones share
    "backbone_kwargs": ("stage_names", "out_indices"),
    "num_channels": ("image_mean", "image_std"),
    "montage_ratios": ("montage_fractions", "level_weights"),
}
"""Fields -> those that are found from them where left out."""


def with_fields(
    kind: Any, written: dict[str, Any], given: dict[str, Any], derived: Mapping[str, tuple[str, ...]]
) -> dict[str, Any]:
    """The content of a config.json with other values for some fields, which are taken out of `given`; `derived`: field
    -> fields that are to be found anew where it changes.

    transformers builds a configuration from what is written and sets the others after, so that nothing checks them, and
    what was found from the old values stays.
    """
    own = kind.__dataclass_fields__.keys() - PreTrainedConfig.__dataclass_fields__.keys()
    changes = {name: given.pop(name) for name in list(given) if name in own}
    stale: set[str] = set()
    for name in changes.keys() & derived.keys():
        old, new = (
            list(value) if isinstance(value, tuple) else value
            for value in (written.get(name, getattr(kind, name, None)), changes[name])
        )
        stale.update(derived[name] if old != new else ())
    return {name: value for name, value in written.items() if name not in stale} | changes


@strict
class MCLConfig(BackboneConfigMixin, PreTrainedConfig):
    """Configuration of `MCLModel`, `MCLBackbone`, `MCLForPreTraining` and `MCLForSupervisedPreTraining`.

    Args:
        backbone: timm architecture with maps at strides 4, 8, 16 and 32.
        backbone_kwargs: More arguments for `timm.create_model`.
        num_channels: Input channels, 1 to 12.
        image_mean: Mean per channel of images in [0, 1]; ImageNet's for 3 channels, else 0.5.
        image_std: Standard deviation per channel; ImageNet's for 3 channels, else 0.25.
        fpn_channels: Width of P2..P5.
        region_size: Side R of a region in cells of its FPN level; that of pre-training's input is `32 * R` px.
        region_convs: 3x3 convolutions of the region head.
        hidden_dim: Hidden width of the region head's and the predictors' MLPs.
        embedding_dim: Width D of the embeddings that are contrasted.
        montage_ratios: Down-sampling ratio r of each level: 1 first, then any of 2, 4, 8 in ascending order.
        montage_fractions: Montages of each level per image of the batch: a level has `max(1, int(N * fraction))`. Where
            left out: 1, 1/4, 1/16, 1/32 for 1, 2, 4, 8, as published.
        level_weights: Weight of each level's loss. Where left out: each half of the one before, and the last as large
            as that: 1/2, 1/4, 1/8, 1/8 as published.
        level_pairing: Which target levels a level's queries are compared with: `"top"` (level 0 only: the published
            code), `"same"`, `"adjacent"` (at most one level apart) or `"all"`.
        temperature: T of the softmax over cosines; the loss is multiplied by 2T.
        region_scope: `"lean"` computes FPN, head and target only where the loss reads them; `"published"` everywhere,
            so that batch-norm batches in training are the published ones. The same function of each sample.
        queue_size: Past target vectors kept as more negatives; 0 for none.
        stage_names: Names of the backbone's maps; found from timm when not given.
        out_features: Maps that `MCLBackbone` returns; C2..C5 (`stage1..stage4`) when not given.
        out_indices: The same as indices into `stage_names`.
        num_labels: Classes of `MCLForSupervisedPreTraining` (transformers' own field).

    Raises:
        ValueError: Fields that contradict each other, an unknown backbone, or one without the needed strides.

    Example:
        >>> from mcl_hf import MCLConfig
        >>> config = MCLConfig(backbone="resnet18", fpn_channels=64)
        >>> config.stage_names
        ['stem', 'stage1', 'stage2', 'stage3', 'stage4']
        >>> config.image_size
        224
    """

    model_type = "mcl_dense"

    backbone: str = "resnet50"
    backbone_kwargs: dict[str, Any] | None = None
    num_channels: int = 3
    image_mean: list[float | int] | tuple[float | int, ...] | None = None
    image_std: list[float | int] | tuple[float | int, ...] | None = None
    fpn_channels: int = 256
    region_size: int = 7
    region_convs: int = 4
    hidden_dim: int = 2048
    embedding_dim: int = 256
    montage_ratios: list[int] | tuple[int, ...] = (1, 2, 4, 8)
    montage_fractions: list[float | int] | tuple[float | int, ...] = ()
    level_weights: list[float | int] | tuple[float | int, ...] = ()
    level_pairing: str = "top"
    temperature: float | int = 1.0
    region_scope: str = "lean"
    queue_size: int = 0
    stage_names: list[str] | tuple[str, ...] | None = None
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self._check_sizes()
        self._check_levels()
        for name, imagenet, other in (("image_mean", IMAGENET_MEAN, 0.5), ("image_std", IMAGENET_STD, 0.25)):
            given = getattr(self, name)
            values = given or (imagenet if self.num_channels == 3 else [other] * self.num_channels)
            if len(values) != self.num_channels:
                raise ValueError(f"{name} has {len(values)} values for num_channels={self.num_channels}")
            if name == "image_std" and min(values) <= 0:
                raise ValueError(f"image_std must be above 0, got {list(values)}")
            setattr(self, name, list(values))
        self.backbone_kwargs = dict(self.backbone_kwargs or {})
        if self.stage_names is None:
            self.stage_names = describe_backbone(self.backbone, self.num_channels, self.backbone_kwargs).stage_names
        self.stage_names = list(self.stage_names)
        out_features, out_indices = kwargs.pop("out_features", None), kwargs.pop("out_indices", None)
        if out_features is None and out_indices is None:
            out_features = [name for name in self.stage_names if name != "stem"]
        self.set_output_features_output_indices(out_features=out_features, out_indices=out_indices)
        super().__post_init__(**kwargs)

    def _check_sizes(self) -> None:
        if not 1 <= self.num_channels <= 12:
            raise ValueError(f"num_channels must be 1 to 12, got {self.num_channels}")
        for name in ("fpn_channels", "region_size", "hidden_dim", "embedding_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.region_convs < 0 or self.queue_size < 0:
            raise ValueError("region_convs and queue_size must not be negative")
        if self.temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")
        if self.level_pairing not in LEVEL_PAIRINGS:
            raise ValueError(f"level_pairing must be one of {', '.join(LEVEL_PAIRINGS)}, got {self.level_pairing!r}")
        if self.region_scope not in REGION_SCOPES:
            raise ValueError(f"region_scope must be one of {', '.join(REGION_SCOPES)}, got {self.region_scope!r}")

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """transformers' own, with what follows from fields in `kwargs` found anew. A detector's configuration is a
        ValueError, since the projection of its region head would start at random, and nothing here could say so."""
        if config_dict.get("model_type") == "mcl_detector":
            raise ValueError(
                "this is a fine-tuned detector, not a pre-trained model: open it as MCLForInstanceSegmentation or "
                "MCLForObjectDetection"
            )
        return super().from_dict(with_fields(cls, config_dict, kwargs, _DERIVED), **kwargs)

    def _check_levels(self) -> None:
        """The three per-level fields are one table: row i describes level i."""
        ratios, levels = list(self.montage_ratios), len(self.montage_ratios)
        fractions = list(self.montage_fractions) or [_FRACTIONS.get(ratio, 1) for ratio in ratios]
        weights = list(self.level_weights) or [1 / 2 ** min(level + 1, max(levels - 1, 0)) for level in range(levels)]
        if not levels or len(fractions) != levels or len(weights) != levels:
            raise ValueError(
                "montage_ratios, montage_fractions and level_weights need one value a level, got "
                f"{levels}, {len(fractions)} and {len(weights)} values"
            )
        if ratios[0] != 1 or fractions[0] != 1:
            raise ValueError("level 0 is the un-tiled images: its montage ratio and montage fraction must be 1")
        if not set(ratios) <= {1, 2, 4, 8} or ratios != sorted(set(ratios)):
            raise ValueError(f"montage_ratios must ascend from 1 among 1, 2, 4, 8 (P5 to P2), got {ratios}")
        if any(fraction <= 0 for fraction in fractions) or any(weight < 0 for weight in weights):
            raise ValueError("montage_fractions must be above 0 and level_weights not negative")
        if not any(weights):
            raise ValueError("level_weights are all 0: there would be no loss")
        self.montage_ratios, self.montage_fractions, self.level_weights = ratios, fractions, weights

    @property
    def num_hidden_layers(self) -> int:
        """Stages of the backbone, the stem not counted."""
        return sum(name != "stem" for name in self.stage_names or ())

    @property
    def image_size(self) -> int:
        """Side of the input in pre-training, px: a full view is one region of P5."""
        return 32 * self.region_size

    @property
    def level_maps(self) -> list[int]:
        """Index into [P2, P3, P4, P5] of the map that each level reads: ratio 1 reads P5, ratio 8 reads P2."""
        return [3 - (ratio.bit_length() - 1) for ratio in self.montage_ratios]
