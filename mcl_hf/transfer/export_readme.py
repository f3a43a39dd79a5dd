"""README.md of an exported folder: what is in it, how it is opened, and what must not be changed.

Where it sits: to_* -> **notes** -> export.
"""

from pathlib import Path

from ..version import __version__
from .checkpoint import Checkpoint
from .convert import Coverage
from .to_timm import feature_options

_OPEN = {
    "timm": """\
```python
import timm
from transformers import AutoModel

network = timm.create_model("local-dir:{out}", pretrained=True)  # without pretrained=True: random weights
features = timm.create_model("local-dir:{out}", pretrained=True, {feature_options})  # C2..C5
classifier = timm.create_model("local-dir:{out}", pretrained=True, num_classes=7)  # with a new last layer
wrapped = AutoModel.from_pretrained("{out}")  # transformers' TimmWrapperModel
```

In a repository of the Hub the name is `hf-hub:user/name`.
""",
    "torchvision": """\
```python
from safetensors.torch import load_file
from torchvision.models import {backbone}

network = {backbone}()
loaded = network.load_state_dict(load_file("{out}/resnet.safetensors"), strict=False)
assert loaded.missing_keys == ["fc.weight", "fc.bias"] and not loaded.unexpected_keys  # the classifier alone is new
```

`build_detector.py` builds the detector of torchvision's own classes and loads `detector.safetensors`:

```python
import runpy

detector = runpy.run_path("{out}/build_detector.py")["build_detector"]()
```

Images are RGB in [0, 1]; torchvision normalises them. Of a fine-tuned detector boxes, scores and labels are those of
mcl_hf where no image has to be resized (torchvision's resizing is rougher than that of the image processor), and
`CLASSES` of the file names the labels. Its classes train and paste masks differently: shifted by half a pixel.
""",
    "detectron2": """\
In the folder of these files:

```sh
python tools/train_net.py --config-file config.yaml
```

The names are full, so `MODEL.WEIGHTS` needs no matching heuristics. Keep what config.yaml says of stride, channel
order, statistics, norms and freezing: with detectron2's defaults (STRIDE_IN_1X1 True, BGR) names still match, and
results are silently wrong. Of a fine-tuned detector heads and settings are there, too; detectron2 does not round its
anchors to whole pixels, as torchvision and mcl_hf do. The names of the classes are in the first line of config.yaml.
""",
    "mmdet": """\
`mcl.py` is laid over a stock config: add `_base_` as its first lines say, and train with it. Keep `frozen_stages=-1`,
`norm_eval=False` and the norms: stock configs freeze both. Of a fine-tuned detector heads, settings and the names of
the classes are there, too; mmdet does not round its anchors to whole pixels, as torchvision and mcl_hf do.
""",
    "onnx": """\
```python
import onnxruntime

session = onnxruntime.InferenceSession("{out}/backbone.onnx")
maps = session.run(None, {{"pixel_values": pixels}})  # float32 (N, {channels}, H, W), any N, H and W
```

`backbone.onnx` gives c2..c5, `backbone_fpn.onnx`, where it is there, p2..p5 (strides 4, 8, 16, 32).
""",
    "pt2": """\
```python
import torch

maps = torch.export.load("{out}/backbone.pt2").module()(pixels)  # float32 (N, {channels}, H, W), any N, H and W
```

`backbone.pt2` gives C2..C5, `backbone_fpn.pt2`, where it is there, P2..P5 (strides 4, 8, 16, 32).
""",
    "transformers": """\
```python
from mcl_hf import MCLBackbone, MCLModel

model = MCLModel.from_pretrained("{out}")
```
""",
}
_WITH_CODE = """
The folder carries its code, so it opens where mcl_hf is not installed (timm and torchvision must be):

```python
from transformers import AutoModel
from transformers.dynamic_module_utils import get_class_from_dynamic_module

model = AutoModel.from_pretrained("{out}", trust_remote_code=True)
backbone_class = get_class_from_dynamic_module("modeling_mcl.MCLBackbone", "{out}")
backbone = backbone_class.from_pretrained("{out}")
```

`AutoModelForPreTraining` opens it in the same way as `AutoModel`.
"""


def note(checkpoint: Checkpoint, coverage: Coverage, to: str, out: Path, folder: Path) -> str:
    """The text.

    Args:
        checkpoint: that was exported.
        coverage: of the export.
        to: the target.
        out: name of the folder, once it is whole.
        folder: where its files lie now.
    """
    config = checkpoint.config
    fields = {"out": out, "backbone": config.backbone, "channels": config.num_channels}
    if to == "timm":
        fields["feature_options"] = feature_options(config.backbone, config.num_channels, config.backbone_kwargs)
    text = _OPEN[to].format(**fields)
    if (folder / "modeling_mcl.py").is_file():
        text += _WITH_CODE.format(**fields)
    mean, std = checkpoint.statistics
    return (
        f"# {config.backbone} pre-trained by MCL, for {to}\n\n"
        f"Written by mcl_hf {__version__} (`mcl-hf export --to {to}`), {checkpoint.network} network.\n\n"
        f"{coverage}\n\n{text}\n"
        f"Pixels: mean {mean}, std {std} of values in [0, 1]{', RGB' if config.num_channels == 3 else ''}.\n"
    )
