"""What a checkpoint gives in every framework: names matched, and the largest difference of outputs.

    python scripts/check_doors.py                              a ResNet-50 with random weights and statistics
    python scripts/check_doors.py my-run --frameworks FOLDER   a checkpoint; FOLDER holds more packages

Every format is exported, opened by the framework's own code, and fed the same pixels as our model; a small fine-tuned
R-CNN of random weights, too, whose detections are compared. detectron2 and mmdet come with compiled operators; what is
run here uses none of them but mmdet's RoIAlign and NMS, in whose place are torchvision's, so the Python sources are
enough:

    pip install --no-deps --target FOLDER mmdet==3.3.0 mmcv-lite==2.1.0 mmengine addict yapf shapely terminaltables \
        six termcolor rich markdown-it-py pygments mdurl opencv-python-headless fvcore iopath omegaconf cloudpickle \
        antlr4-python3-runtime==4.9.3 portalocker yacs tabulate hydra-core pydot pyparsing black
    pip download --no-deps --no-binary :all: detectron2-cdo==0.5    # a source release of detectron2 0.5; unpack its
                                                                    # detectron2/ into FOLDER

Operators that are missing raise when they are called. What cannot be imported is a row that says so.
"""

import argparse
import contextlib
import importlib.machinery
import importlib.util
import io
import runpy
import sys
import tempfile
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from benchmark_detector import detector_of, randomise_norms
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModel
from transformers.utils.logging import disable_progress_bar

from mcl_hf import MCLConfig, MCLDetectorConfig, MCLImageProcessor, MCLModel
from mcl_hf.hub.markdown import table
from mcl_hf.transfer import export_checkpoint

Row = tuple[str, str, str, float]
PICTURE = torch.randint(0, 256, (320, 416, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
PIXELS = torch.randn(2, 3, 160, 224, generator=torch.Generator().manual_seed(0))


def random_checkpoint(folder: Path) -> MCLModel:
    """A ResNet-50 of the default configuration, with batch-norm statistics that are not 0 and 1."""
    torch.manual_seed(0)
    model = MCLModel(MCLConfig()).eval()
    randomise_norms(model)
    model.save_pretrained(folder)
    MCLImageProcessor.from_config(model.config).save_pretrained(folder)
    return model


def random_detector(folder: Path, detector: str) -> Any:
    """A small R-CNN with random weights that tells regions apart."""
    torch.manual_seed(0)
    sizes = {"fpn_channels": 16, "box_fc_dim": 32, "min_size": PICTURE.shape[0], "max_size": 640}
    config = MCLDetectorConfig(
        detector=detector, backbone="resnet18", num_labels=3, box_detections_per_img=15, box_score_thresh=0.01, **sizes
    )
    model = detector_of(config).eval()
    for name, parameter in model.named_parameters():
        if "cls_score" in name or "cls_logits" in name or name.endswith("bbox_pred.bias"):
            parameter.normal_(std=0.3)
    model.save_pretrained(folder)
    return model


def largest(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Largest absolute difference of two lists of maps.

    Raises:
        ValueError: they do not have the same shapes.
    """
    if [a.shape for a in ours] != [b.shape for b in theirs]:
        raise ValueError(f"shapes differ: {[tuple(a.shape) for a in ours]} and {[tuple(b.shape) for b in theirs]}")
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))


class Doors:
    """Exports one checkpoint, and opens what was written."""

    def __init__(self, source: str, model: MCLModel, folder: Path) -> None:
        self.source, self.model, self.folder = source, model, folder
        maps = model(PIXELS)
        self.c, self.p = list(maps.backbone_feature_maps), list(maps.feature_maps)
        width = model.config.fpn_channels
        self.cells = torch.randn(5, width, 7, 7, generator=torch.Generator().manual_seed(1))
        self.regions = model.region_head.pool(self.cells.clone())  # (5, width)

    def export(self, to: str, detector: str | None = None) -> tuple[Path, str]:
        """A new folder, and "given of all" names."""
        out = self.folder / f"{to}-{detector}"
        coverage = export_checkpoint(self.source, out, to, detector=detector)
        return out, f"{coverage.given} of {coverage.total}"

    def pyramid_rows(
        self,
        to: str,
        open_folder: Callable[[Path], tuple[Any, str]],
        maps_of: Callable[[Any], Sequence[Tensor] | Mapping[str, Tensor]],
        convs_of: Callable[[Any], Sequence[nn.Module]],
    ) -> list[Row]:
        """What pre-training brings to two detectors; functions open what was exported, with the names that were
        matched, run the pyramid from its finest level on, and take the convolutions out of an R-CNN's box head."""
        rows = []
        for detector, first in (("mask_rcnn", 0), ("retinanet", 1)):
            model, names = open_folder(self.export(to, detector)[0])
            maps = maps_of(model)
            maps = list(maps.values() if isinstance(maps, Mapping) else maps)[: 4 - first]
            rows.append((f"{to} {detector}", names, f"P{2 + first} to P5", largest(self.p[first:], maps)))
            if detector == "mask_rcnn":
                found = nn.Sequential(*convs_of(model))(self.cells).mean(dim=(2, 3))
                rows.append((f"{to} {detector}", names, "box head convolutions", largest([self.regions], [found])))
        return rows

    def detection_rows(self, to: str, find: Callable[[Path], tuple[Tensor, Tensor, Tensor]]) -> list[Row]:
        """What whole detectors find: a function of the exported folder gives boxes, scores and labels of `PICTURE`."""
        rows = []
        for detector in ("mask_rcnn", "faster_rcnn"):
            source, out = self.folder / detector, self.folder / f"{to}-whole-{detector}"
            ours = random_detector(source, detector)
            coverage = export_checkpoint(source, out, to)
            processor = MCLImageProcessor.from_config(ours.config)
            output = ours(**processor(Image.fromarray(PICTURE.numpy()), return_tensors="pt"))
            found = processor.post_process_object_detection(output, 0.0, [PICTURE.shape[:2]])[0]
            if detector == "mask_rcnn":  # it registers a class, which goes but once in a framework
                runpy.run_path(str(out / "mcl_anchors.py"))
            boxes, scores, labels = find(out)
            same = torch.equal(labels, found["labels"])
            error = largest([found["boxes"], found["scores"]], [boxes, scores]) if same else float("inf")
            names = f"{coverage.given} of {coverage.total}"
            rows.append((f"{to} {detector}", names, f"boxes and scores of {len(labels)} detections", error))
        return rows

    # ------------------------------------------------------------------------------------------------------------
    # one method a framework

    def timm(self) -> list[Row]:
        """The backbone, by timm and by transformers' TimmWrapper."""
        out, names = self.export("timm")
        features = timm.create_model(f"local-dir:{out}", pretrained=True, features_only=True).eval()
        wrapped = AutoModel.from_pretrained(out)
        last = wrapped(PIXELS, do_pooling=False).last_hidden_state
        return [
            ("timm", names, "C2 to C5", largest(self.c, features(PIXELS)[-4:])),
            ("transformers TimmWrapper", names, "C5", largest(self.c[-1:], [last])),
        ]

    def torchvision(self) -> list[Row]:
        """Its ResNet, and its Mask R-CNN and RetinaNet by the script that is exported with the weights."""
        import torchvision

        def open_folder(out: Path) -> tuple[Any, str]:
            model = runpy.run_path(str(out / "build_detector.py"))["build_detector"]().eval()
            return model, matched(model, load_file(out / "detector.safetensors"))

        rows = self.pyramid_rows(
            "torchvision", open_folder, lambda model: model.backbone(PIXELS),
            lambda model: list(model.roi_heads.box_head)[:4],
        )  # fmt: skip
        plain = torchvision.models.get_model(self.model.config.backbone).eval()
        found = matched(plain, load_file(self.folder / "torchvision-mask_rcnn" / "resnet.safetensors"))
        stages = nn.Sequential(*list(plain.children())[:-2])
        return [*rows, ("torchvision ResNet", found, "C5", largest(self.c[-1:], [stages(PIXELS)]))]

    def detectron2(self) -> list[Row]:
        """Its models, built from the exported yaml."""
        without_operators("detectron2._C")
        if not hasattr(Image, "LINEAR"):
            Image.LINEAR = Image.BILINEAR  # type: ignore[attr-defined]  # a name that old releases use
        from detectron2.config import get_cfg
        from detectron2.modeling import build_model

        def open_folder(out: Path) -> tuple[Any, str]:
            settings = get_cfg()
            settings.merge_from_file(str(out / "config.yaml"))
            settings.MODEL.DEVICE = "cpu"
            model = build_model(settings).eval()
            return model, matched(model, torch.load(out / "model.pth", weights_only=True)["model"])

        def find(out: Path) -> tuple[Tensor, Tensor, Tensor]:
            found = open_folder(out)[0]([{"image": PICTURE.permute(2, 0, 1)}])[0]["instances"]
            return found.pred_boxes.tensor, found.scores, found.pred_classes

        def convs(model: Any) -> list[nn.Module]:
            return [getattr(model.roi_heads.box_head, f"conv{number}") for number in range(1, 5)]

        return [
            *self.detection_rows("detectron2", find),
            *self.pyramid_rows("detectron2", open_folder, lambda model: model.backbone(PIXELS), convs),
        ]

    def mmdet(self) -> list[Row]:
        """Its models, built from its stock configs with the exported fragment laid over them."""
        import torchvision

        without_operators("mmcv._ext").nms = (  # type: ignore[attr-defined]  # torchvision's in its place
            lambda boxes, scores, iou_threshold, offset: torchvision.ops.nms(boxes, scores, iou_threshold)
        )
        import mmdet
        from mmdet.registry import MODELS
        from mmdet.structures import DetDataSample
        from mmdet.utils import register_all_modules
        from mmengine.config import Config

        register_all_modules()
        configs = Path(mmdet.__file__).parent / ".mim" / "configs" / "_base_" / "models"

        def open_folder(out: Path) -> tuple[Any, str]:
            fragment = runpy.run_path(str(out / "mcl.py"))["model"]
            heads = fragment.get("roi_head")
            stock = "retinanet" if heads is None else "mask-rcnn" if "mask_head" in heads else "faster-rcnn"
            settings = Config.fromfile(configs / f"{stock}_r50_fpn.py")
            settings.merge_from_dict({"model": fragment})
            for name, part in (settings.model.get("roi_head") or {}).items():
                if name.endswith("_roi_extractor"):
                    part.roi_layer["use_torchvision"] = True
            model = MODELS.build(settings.model).eval()
            return model, matched(model, torch.load(out / "model.pth", weights_only=True)["state_dict"])

        def find(out: Path) -> tuple[Tensor, Tensor, Tensor]:
            size = tuple(PICTURE.shape[:2])
            sample = DetDataSample(metainfo={"img_shape": size, "ori_shape": size, "scale_factor": (1.0, 1.0)})
            given = {"inputs": [PICTURE.permute(2, 0, 1).flip(0)], "data_samples": [sample]}  # BGR
            found = open_folder(out)[0].test_step(given)[0].pred_instances
            return found.bboxes, found.scores, found.labels

        return [
            *self.detection_rows("mmdet", find),
            *self.pyramid_rows(
                "mmdet", open_folder, lambda model: model.neck(model.backbone(PIXELS)),
                lambda model: model.roi_head.bbox_head.shared_convs,
            ),
        ]  # fmt: skip

    def onnx(self) -> list[Row]:
        """Graphs, run by onnxruntime."""
        import onnxruntime

        out, names = self.export("onnx")
        rows = []
        for file, maps, what in (("backbone", self.c, "C2 to C5"), ("backbone_fpn", self.p, "P2 to P5")):
            session = onnxruntime.InferenceSession(str(out / f"{file}.onnx"))
            found = [torch.from_numpy(value) for value in session.run(None, {"pixel_values": PIXELS.numpy()})]
            rows.append((f"onnxruntime {file}", names, what, largest(maps, found)))
        return rows

    def torch_export(self) -> list[Row]:
        """The program of torch.export."""
        out, names = self.export("pt2")
        program = torch.export.load(out / "backbone_fpn.pt2").module()
        return [("torch.export backbone_fpn", names, "P2 to P5", largest(self.p, list(program(PIXELS))))]


def matched(model: nn.Module, tensors: dict[str, Tensor]) -> str:
    """Load by name; "given of all". What the checkpoint does not bring stays new: predictors, mask head, RPN.

    Raises:
        ValueError: the model has no place for one of them.
    """
    own = model.state_dict()
    homeless = [name for name in tensors if name not in own or own[name].shape != tensors[name].shape]
    if homeless:
        raise ValueError(f"{len(homeless)} tensors without a place, such as {homeless[0]}")
    model.load_state_dict(tensors, strict=False)
    return f"{len(tensors)} of {len(own)}"


def without_operators(name: str) -> types.ModuleType:
    """Where a framework's compiled operators are absent, let it be imported without them; calling one raises. The
    module of the operators."""
    package = name.partition(".")[0]
    if importlib.util.find_spec(package) is None:
        raise ImportError(f"{package} is not installed")

    def operator(attribute: str) -> Callable[..., Any]:
        if attribute.startswith("__"):
            raise AttributeError(attribute)

        def missing(*arguments: object, **options: object) -> None:
            raise NotImplementedError(f"{name}.{attribute} is not compiled here")

        return missing

    try:
        importlib.import_module(name)
    except ImportError:
        module = types.ModuleType(name)
        module.__spec__, module.__file__ = importlib.machinery.ModuleSpec(name, None), "absent"
        module.__getattr__ = operator  # type: ignore[method-assign]  # of the module (PEP 562)
        sys.modules[name] = module
    return sys.modules[name]


def main() -> int:
    """Print the table; 1 where outputs differ by more than 1e-4, or names do not fit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", help="a folder (default: random weights)")
    parser.add_argument("--frameworks", action="append", default=[], metavar="FOLDER", help="more packages, repeatable")
    options = parser.parse_args()
    sys.path += options.frameworks
    warnings.filterwarnings("ignore")
    failed = False
    disable_progress_bar()
    with tempfile.TemporaryDirectory() as name, torch.no_grad():
        folder = Path(name)
        source = options.checkpoint or str(folder / "checkpoint")
        model = MCLModel.from_pretrained(source).eval() if options.checkpoint else random_checkpoint(Path(source))
        doors = Doors(source, model, folder)
        rows = []
        for door in (doors.timm, doors.torchvision, doors.detectron2, doors.mmdet, doors.onnx, doors.torch_export):
            print(f"  {door.__name__} ...", file=sys.stderr, flush=True)
            try:
                with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                    found = door()
            except (ImportError, ValueError) as error:
                failed |= isinstance(error, ValueError)
                reason = "not run" if isinstance(error, ImportError) else "failed"
                rows.append([door.__name__, "", "", f"{reason}: {error}"])
                continue
            for *words, largest_error in found:
                failed |= not largest_error <= 1e-4
                rows.append([*words, f"{largest_error:.1e}" if largest_error else "0, bit for bit"])
    print(table(["door", "names", "compared", "largest difference"], rows, texts=4))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
