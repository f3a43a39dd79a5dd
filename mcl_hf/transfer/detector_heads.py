"""A fine-tuned detector's own heads, beside what pre-training brings (`keymaps`), by other frameworks' names and order.

Our class 0 is the background (torchvision), theirs is the last one and has no box and no mask; detectron2 counts
anchors of a cell size by size, all others shape by shape; mmdet puts batch norm behind P6 and P7.

Source: torchvision `models/detection`; detectron2 `modeling/{proposal_generator/rpn,roi_heads,meta_arch/retinanet}.py`
and `modeling/anchor_generator.py`; mmdet `models/{dense_heads,roi_heads,necks/fpn}.py`.
"""

from collections.abc import Mapping

import torch

from .keymaps import Rule, Table, conv_norms

_NORM_EPS = 1e-5
_OF_ANCHORS = ("rpn.head.cls_logits.", "rpn.head.bbox_pred.", "classification_head.cls_logits.", ".bbox_reg.")
_RPN_SHIFTS, _DENSE_SHIFTS = "rpn.head.bbox_pred.bias", "retinanet.head.regression_head.bbox_reg.bias"


def head_table(target: str, detector: str, num_convs: int, rpn_convs: int = 1) -> Table:
    """Rows of what a fine-tuned detector has beside the pre-trained parts. torchvision counts the linear layer behind
    the box head's convolutions; the others name a single convolution of the proposal network in another way."""
    if detector == "retinanet":
        return _DENSE[target]
    table = {"torchvision": _torchvision, "detectron2": _detectron2, "mmdet": _mmdet}[target](num_convs, rpn_convs)
    return [row for row in table if detector == "mask_rcnn" or not row.ours.startswith("roi_heads.mask_")]


def _torchvision(num_convs: int, rpn_convs: int) -> Table:
    return (
        Rule("roi_heads.box_head.fc1.{leaf}", f"roi_heads.box_head.{num_convs + 1}.{{leaf}}"),
        *(Rule(f"{part}.{{rest}}", f"{part}.{{rest}}") for part in ("roi_heads.box_predictor", "rpn")),
        *conv_norms("roi_heads.mask_head.conv.{i}", "roi_heads.mask_head.{i}.0", "roi_heads.mask_head.{i}.1"),
        Rule("roi_heads.mask_predictor.{rest}", "roi_heads.mask_predictor.{rest}"),
    )


def _detectron2(num_convs: int, rpn_convs: int) -> Table:
    rpn, mask = "proposal_generator.rpn_head", "roi_heads.mask_head.mask_fcn{i}"
    conv = f"{rpn}.conv.{{leaf}}" if rpn_convs == 1 else f"{rpn}.conv.conv{{i}}.{{leaf}}"
    return (
        Rule("roi_heads.box_head.fc1.{leaf}", "roi_heads.box_head.fc1.{leaf}"),
        Rule("roi_heads.box_predictor.{rest}", "roi_heads.box_predictor.{rest}"),
        Rule("rpn.head.conv.{i}.0.{leaf}", conv),
        Rule("rpn.head.cls_logits.{leaf}", f"{rpn}.objectness_logits.{{leaf}}"),
        Rule("rpn.head.bbox_pred.{leaf}", f"{rpn}.anchor_deltas.{{leaf}}"),
        *conv_norms("roi_heads.mask_head.conv.{i}", mask, f"{mask}.norm", shift=1),
        Rule("roi_heads.mask_predictor.conv5_mask.{leaf}", "roi_heads.mask_head.deconv.{leaf}"),
        Rule("roi_heads.mask_predictor.mask_fcn_logits.{leaf}", "roi_heads.mask_head.predictor.{leaf}"),
    )


def _mmdet(num_convs: int, rpn_convs: int) -> Table:
    box, mask = "roi_head.bbox_head", "roi_head.mask_head"
    return (
        Rule("roi_heads.box_head.fc1.{leaf}", f"{box}.shared_fcs.0.{{leaf}}"),
        Rule("roi_heads.box_predictor.cls_score.{leaf}", f"{box}.fc_cls.{{leaf}}"),
        Rule("roi_heads.box_predictor.bbox_pred.{leaf}", f"{box}.fc_reg.{{leaf}}"),
        Rule("rpn.head.conv.{i}.0.{leaf}", "rpn_head.rpn_conv" + (".{leaf}" if rpn_convs == 1 else ".{i}.conv.{leaf}")),
        Rule("rpn.head.cls_logits.{leaf}", "rpn_head.rpn_cls.{leaf}"),
        Rule("rpn.head.bbox_pred.{leaf}", "rpn_head.rpn_reg.{leaf}"),
        *conv_norms("roi_heads.mask_head.conv.{i}", f"{mask}.convs.{{i}}.conv", f"{mask}.convs.{{i}}.bn"),
        Rule("roi_heads.mask_predictor.conv5_mask.{leaf}", f"{mask}.upsample.{{leaf}}"),
        Rule("roi_heads.mask_predictor.mask_fcn_logits.{leaf}", f"{mask}.conv_logits.{{leaf}}"),
    )


def _dense(convs: str, other_convs: str, logits: str, shifts: str) -> Table:
    ours = "retinanet.head.{}_head.{}.{{leaf}}"
    return (
        *(Rule(ours.format("classification", f"conv.{i}.0"), convs.format(i, 2 * i)) for i in range(4)),
        *(Rule(ours.format("regression", f"conv.{i}.0"), other_convs.format(i, 2 * i)) for i in range(4)),
        Rule(ours.format("classification", "cls_logits"), f"{logits}.{{leaf}}"),
        Rule(ours.format("regression", "bbox_reg"), f"{shifts}.{{leaf}}"),
    )


_DENSE: Mapping[str, Table] = {
    "torchvision": (
        Rule("extra_levels.{rest}", "backbone.fpn.extra_blocks.{rest}"),
        Rule("retinanet.head.{rest}", "head.{rest}"),
    ),
    "detectron2": (
        Rule("extra_levels.{rest}", "backbone.top_block.{rest}"),
        *_dense("head.cls_subnet.{1}.{{leaf}}", "head.bbox_subnet.{1}.{{leaf}}", "head.cls_score", "head.bbox_pred"),
    ),
    "mmdet": (
        *(
            Rule(f"extra_levels.{level}.{bn}{{leaf}}", f"neck.fpn_convs.{place}.{bn or 'conv.'}{{leaf}}")
            for level, place in (("p6", 3), ("p7", 4))
            for bn in ("", "bn.")
        ),
        *_dense(
            "bbox_head.cls_convs.{0}.conv.{{leaf}}", "bbox_head.reg_convs.{0}.conv.{{leaf}}",
            "bbox_head.retina_cls", "bbox_head.retina_reg",
        ),
    ),
}  # fmt: skip


def head_values(
    tensors: Mapping[str, torch.Tensor], target: str, num_ratios: int
) -> tuple[dict[str, torch.Tensor], int]:
    """A detector's tensors, the heads' in the order that a target has them, for anchors of so many aspect ratios; and
    how many more there are now: mmdet's batch norm behind P6 and P7, which adds our bias and changes nothing else."""
    if target == "torchvision":
        return dict(tensors), 0
    found: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if name.startswith("roi_heads.box_predictor.cls_score."):
            tensor = torch.cat([tensor[1:], tensor[:1]])  # the background goes to the end
        elif name.startswith("roi_heads.box_predictor.bbox_pred."):
            tensor = tensor[4:]
        elif name.startswith("roi_heads.mask_predictor.mask_fcn_logits."):
            tensor = tensor[1:]
        elif target == "detectron2" and any(part in name for part in _OF_ANCHORS):
            shifts = tensors[_RPN_SHIFTS if name.startswith("rpn.") else _DENSE_SHIFTS]
            sizes = len(shifts) // 4 // num_ratios  # of a cell's anchors
            tensor = tensor.unflatten(0, (num_ratios, sizes, -1)).transpose(0, 1).flatten(0, 2)
        elif target == "mmdet" and name.startswith("extra_levels.") and name.endswith(".bias"):
            found |= _norm_that_adds(tensor, name.removesuffix("bias") + "bn.")
            continue
        found[name] = tensor
    return found, len(found) - len(tensors)


def _norm_that_adds(bias: torch.Tensor, prefix: str) -> dict[str, torch.Tensor]:
    values = {
        "weight": torch.full_like(bias, (1 + _NORM_EPS) ** 0.5),
        "bias": bias,
        "running_mean": torch.zeros_like(bias),
        "running_var": torch.ones_like(bias),
        "num_batches_tracked": torch.zeros((), dtype=torch.int64),
    }
    return {f"{prefix}{name}": value for name, value in values.items()}
