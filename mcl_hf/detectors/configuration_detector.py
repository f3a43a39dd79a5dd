"""`MCLDetectorConfig`: the one configuration of Mask R-CNN, Faster R-CNN and RetinaNet on an MCL backbone and FPN.

Names are torchvision's (`torchvision.models.detection`); defaults are detectron2's `Base-RCNN-FPN` and
`Base-RetinaNet`, with batch norm in FPN, box head and mask head and a box head of four convolutions and one
fully connected layer, as the paper fine-tunes.

Differs from detectron2's defaults: box regression is smooth L1 with beta 1/9 (torchvision's), not L1, in the R-CNNs.
`LAYOUT` are the fields by which torchvision's own detectors are other networks.
"""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from ..models.configuration_mcl import MCLConfig, with_fields

DETECTORS = ("mask_rcnn", "faster_rcnn", "retinanet")
SHARED_FIELDS = ("backbone", "backbone_kwargs", "num_channels", "image_mean", "image_std", "fpn_channels")
"""Fields that mean the same in `MCLConfig`."""

LAYOUT = ("conv_norm", "rpn_conv_depth", "roi_sampling_ratio", "roi_aligned", "fixed_anchor_strides", "box_head_convs",
          "box_head_fcs", "mask_head_convs", "p6_of", "dense_norm", "dense_box_loss")  # fmt: skip
"""Fields that say which layers a detector has, and how they read images, beside its backbone and widths."""

_CHOICES = {"conv_norm": ("batch_norm", "none"), "p6_of": ("c5", "p5"), "dense_norm": ("none", "group_norm"),
            "dense_box_loss": ("l1", "giou")}  # fmt: skip
# Fields -> those that are found from them where left out. The detector matters where one of the two is a RetinaNet.
_DERIVED = {"num_channels": ("image_mean", "image_std")}
_DERIVED_OF_RETINANET = {"detector": ("anchor_sizes", "box_bg_iou_thresh")}
_MAY_BE_0 = ("box_head_convs", "mask_head_convs", "roi_sampling_ratio")


@strict
class MCLDetectorConfig(PreTrainedConfig):
    """Configuration of `MCLForInstanceSegmentation` and `MCLForObjectDetection`.

    Classes are numbered 0 to `num_labels` - 1 in labels, predictions and `id2label`; background exists inside of the
    R-CNNs only.

    Args:
        detector: `"mask_rcnn"`, `"faster_rcnn"` or `"retinanet"`.
        backbone: timm architecture with maps at strides 4, 8, 16 and 32.
        backbone_kwargs: More arguments for `timm.create_model`.
        num_channels: Input channels.
        image_mean, image_std: Mean and standard deviation per channel of images in [0, 1].
        fpn_channels: Width of the pyramid, of the box head's convolutions and of the mask head.
        conv_norm: What follows each convolution of FPN, box head and mask head: `"batch_norm"`, or `"none"`.
        min_size, max_size: Shorter side that the image processor resizes to, and bound of the longer one, px.
        size_divisible: Images are padded to multiples of this, px.
        anchor_sizes: Sides of the square anchors of each level, px: five levels, P2 to P6 (R-CNN) or P3 to P7
            (RetinaNet, three sizes each).
        aspect_ratios: Height by width of the anchors.
        fixed_anchor_strides: Whether anchors stand 4, 8, ... px apart; else as far as the padded image's side by the
            map's says, rounded down (torchvision: 61 px for 64 where it has 800).
        rpn_conv_depth: 3x3 convolutions of the region proposal network.
        rpn_pre_nms_top_n_train, rpn_pre_nms_top_n_test: Best proposals kept of each level before NMS.
        rpn_post_nms_top_n_train, rpn_post_nms_top_n_test: Best proposals kept of an image after NMS.
        rpn_nms_thresh: IoU above which the weaker of two proposals is dropped.
        rpn_fg_iou_thresh: IoU from which an anchor is an object.
        rpn_bg_iou_thresh: IoU below which an anchor is background.
        rpn_batch_size_per_image, rpn_positive_fraction: Anchors of an image that the loss samples, and upper bound of
            the share of objects among them.
        rpn_score_thresh: Proposals below this objectness are dropped.
        roi_sampling_ratio: RoIAlign's samples a cell and side; 0 adapts it to the region's size, as detectron2.
        roi_aligned: RoIAlign aligned by half a cell, as detectron2; torchvision's is not.
        roi_canonical_size: Side of a box that is read from P4, px; half of it from P3. 32 * R suits networks that were
            pre-trained on regions of R cells, 7 as a rule.
        box_pool_size: Side of the box head's input, cells.
        box_head_convs: 3x3 convolutions of the box head (they start from MCL's region head).
        box_head_fcs, box_fc_dim: Fully connected layers behind them, and their width.
        box_score_thresh: Detections at or below this score are dropped (all three detectors).
        box_nms_thresh: IoU above which the weaker of two detections of a class is dropped (all three).
        box_detections_per_img: Detections kept of an image (all three).
        box_fg_iou_thresh: IoU from which a proposal (RetinaNet: an anchor) is an object.
        box_bg_iou_thresh: IoU below which it is background: 0.5, or 0.4 in RetinaNet.
        box_batch_size_per_image, box_positive_fraction: Proposals of an image that the loss samples, and upper bound of
            the share of objects among them.
        bbox_reg_weights: Weights of x, y, w, h in the box head's regression.
        mask_pool_size: Side of the mask head's input, cells; masks have twice that.
        mask_head_convs: 3x3 convolutions of the mask head.
        p6_of: What RetinaNet makes P6 and P7 of: `"c5"` or `"p5"`.
        dense_norm: What follows each convolution of RetinaNet's head: `"none"` or `"group_norm"`, of 32 groups.
        dense_box_loss: RetinaNet's loss of boxes: `"l1"` or `"giou"`.
        topk_candidates: RetinaNet's best candidates of each level before NMS.
        id2label: Names of the classes (transformers' own field; `num_labels` follows from it, or gives it).

    Raises:
        ValueError: Fields out of range or that contradict each other, or an unfit backbone.

    Example:
        >>> from mcl_hf import MCLDetectorConfig
        >>> config = MCLDetectorConfig(detector="retinanet", backbone="resnet18", id2label={0: "cat", 1: "dog"})
        >>> config.num_labels, config.anchor_sizes[0]
        (2, [32, 40, 50])
    """

    model_type = "mcl_detector"

    detector: str = "mask_rcnn"
    backbone: str = "resnet50"
    backbone_kwargs: dict[str, Any] | None = None
    num_channels: int = 3
    image_mean: list[float | int] | tuple[float | int, ...] | None = None
    image_std: list[float | int] | tuple[float | int, ...] | None = None
    fpn_channels: int = 256
    conv_norm: str = "batch_norm"
    min_size: int = 800
    max_size: int = 1333
    size_divisible: int = 32
    anchor_sizes: list[list[float | int]] | tuple[tuple[float | int, ...], ...] | None = None
    aspect_ratios: list[float | int] | tuple[float | int, ...] = (0.5, 1.0, 2.0)
    fixed_anchor_strides: bool = True
    rpn_conv_depth: int = 1
    rpn_pre_nms_top_n_train: int = 2000
    rpn_pre_nms_top_n_test: int = 1000
    rpn_post_nms_top_n_train: int = 1000
    rpn_post_nms_top_n_test: int = 1000
    rpn_nms_thresh: float | int = 0.7
    rpn_fg_iou_thresh: float | int = 0.7
    rpn_bg_iou_thresh: float | int = 0.3
    rpn_batch_size_per_image: int = 256
    rpn_positive_fraction: float | int = 0.5
    rpn_score_thresh: float | int = 0.0
    roi_sampling_ratio: int = 0
    roi_aligned: bool = True
    roi_canonical_size: int = 224
    box_pool_size: int = 7
    box_head_convs: int = 4
    box_head_fcs: int = 1
    box_fc_dim: int = 1024
    box_score_thresh: float | int = 0.05
    box_nms_thresh: float | int = 0.5
    box_detections_per_img: int = 100
    box_fg_iou_thresh: float | int = 0.5
    box_bg_iou_thresh: float | int | None = None
    box_batch_size_per_image: int = 512
    box_positive_fraction: float | int = 0.25
    bbox_reg_weights: list[float | int] | tuple[float | int, ...] = (10.0, 10.0, 5.0, 5.0)
    mask_pool_size: int = 14
    mask_head_convs: int = 4
    p6_of: str = "c5"
    dense_norm: str = "none"
    dense_box_loss: str = "l1"
    topk_candidates: int = 1000

    def __post_init__(self, **kwargs: Any) -> None:
        if self.detector not in DETECTORS:
            raise ValueError(f"detector must be one of {', '.join(DETECTORS)}, got {self.detector!r}")
        shared = MCLConfig(**{name: getattr(self, name) for name in SHARED_FIELDS})  # checks, and fills mean and std
        for name in SHARED_FIELDS:
            setattr(self, name, getattr(shared, name))
        if self.box_bg_iou_thresh is None:
            self.box_bg_iou_thresh = 0.4 if self.is_dense else 0.5
        self._check_ranges()
        if self.anchor_sizes is None:
            octaves = (0, 1 / 3, 2 / 3) if self.is_dense else (0,)
            self.anchor_sizes = [[int(side * 2**octave) for octave in octaves] for side in (32, 64, 128, 256, 512)]
        self.anchor_sizes = [list(sizes) for sizes in self.anchor_sizes]
        if len(self.anchor_sizes) != 5 or len({len(sizes) for sizes in self.anchor_sizes}) != 1:
            levels = "P3 to P7" if self.is_dense else "P2 to P6"
            raise ValueError(
                f"anchor_sizes needs five levels ({levels}) with equally many sizes, got {self.anchor_sizes}"
            )
        self.aspect_ratios = list(self.aspect_ratios)
        sides = [self.aspect_ratios, *self.anchor_sizes]
        if not all(sides) or min(map(min, sides)) <= 0:
            raise ValueError("anchor_sizes and aspect_ratios must not be empty, and above 0")
        self.bbox_reg_weights = list(self.bbox_reg_weights)
        if len(self.bbox_reg_weights) != 4 or min(self.bbox_reg_weights) <= 0:
            raise ValueError(f"bbox_reg_weights needs four values above 0, got {self.bbox_reg_weights}")
        super().__post_init__(**kwargs)
        if sorted(self.id2label) != list(range(len(self.id2label))) or not self.id2label:
            raise ValueError(
                f"id2label must number the classes 0 to {len(self.id2label) - 1}, got {sorted(self.id2label)}"
            )

    @property
    def num_hidden_layers(self) -> int:
        """Stages of the backbone, the stem not counted."""
        return 4

    @property
    def is_dense(self) -> bool:
        """Whether boxes are found in one stage, by RetinaNet's dense head."""
        return self.detector == "retinanet"

    def _check_ranges(self) -> None:
        """Plain ranges of single fields, and of pairs."""
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be {' or '.join(choices)}, got {getattr(self, name)!r}")
        for name, kind in MCLDetectorConfig.__annotations__.items():
            value = getattr(self, name)
            if name in _MAY_BE_0 and value < 0:
                raise ValueError(f"{name} must not be negative, got {value}")
            if kind is int and name not in _MAY_BE_0 and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
            if name.endswith(("_fraction", "_thresh")) and not 0 <= value <= 1:
                raise ValueError(f"{name} must be within 0 and 1, got {value}")
        for stage in ("rpn", "box"):
            low, high = getattr(self, f"{stage}_bg_iou_thresh"), getattr(self, f"{stage}_fg_iou_thresh")
            if low > high:
                raise ValueError(f"{stage}_bg_iou_thresh {low} is above {stage}_fg_iou_thresh {high}")
        if self.min_size > self.max_size:
            raise ValueError(f"min_size {self.min_size} is above max_size {self.max_size}")
        if self.size_divisible % 32:
            raise ValueError(f"size_divisible must be a multiple of 32, got {self.size_divisible}")

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """transformers' own, with what follows from fields in `kwargs` found anew; a pre-training checkpoint's
        configuration is refused, since half of it would fit.

        Raises:
            ValueError: It is a pre-training checkpoint's, or fields do not fit.
        """
        if config_dict.get("model_type") == MCLConfig.model_type:
            raise ValueError(
                "this is a pre-training checkpoint, not a detector: start a detector from it with "
                "from_pretraining(PATH, num_labels=...)"
            )
        kinds = (config_dict.get("detector"), kwargs.get("detector"))
        derived = _DERIVED | (_DERIVED_OF_RETINANET if "retinanet" in kinds else {})
        return super().from_dict(with_fields(cls, config_dict, kwargs, derived), **kwargs)

    @classmethod
    def from_mcl(cls, config: MCLConfig, **fields: Any) -> "MCLDetectorConfig":
        """The detector that a pre-trained model fits: same backbone, channels, statistics, widths and box head depth;
        `fields` of this class are as given."""
        taken = {name: getattr(config, name) for name in SHARED_FIELDS}
        return cls(**{**taken, "box_head_convs": config.region_convs, **fields})
