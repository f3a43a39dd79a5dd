"""Detectors of transformers as graphs: boxes, scores and labels of the processor, at any size and number of images.

The larger detectors take torch minutes each: they run with MCL_ALL_GRAPHS=1.
"""

import os
import re

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import DetrImageProcessor

from mcl_hf.detectors.transformers_detectors import TRANSFORMERS_DETECTORS, start_transformers_detector
from mcl_hf.errors import InputError
from mcl_hf.transfer import export_checkpoint
from mcl_hf.transfer.detector_to_onnx import EXPORTED
from tests.transfer.norms import randomise_norms

onnxruntime = pytest.importorskip("onnxruntime")
BACKBONE = {"channels": [8, 8, 16, 16], "stem_width": 8, "layers": [1, 1, 1, 1]}
SMALL = {
    "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "num_queries": 12, "d_model": 32,
}  # fmt: skip
SQUARE = {**SMALL, "decoder_layers": 2, "encoder_hidden_dim": 32, "decoder_in_channels": [32] * 3}
OPTIONS = {"detr": SMALL, "deformable_detr": {**SMALL, "decoder_layers": 2}} | dict.fromkeys(
    ("rt_detr_v2", "d_fine", "deimv2"), SQUARE
)
SIZES = [(1, 128, 96), (2, 96, 160), (3, 192, 128)]


def tiny_detector(detector: str, folder):
    torch.manual_seed(0)
    names = {0: "cup", 1: "fork", 2: "plate"}
    model, _ = start_transformers_detector(
        "random", detector, names, "resnet10t", backbone_kwargs=BACKBONE, **OPTIONS[detector]
    )
    randomise_norms(model)
    for name, parameter in model.named_parameters():  # as initialised, all queries find about the same
        classes = re.search("class_embed|class_labels|score_head", name)
        if "backbone" not in name and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1 if classes else 0.3)
        elif classes:
            torch.nn.init.zeros_(parameter)
    model.eval().save_pretrained(folder)
    processor = TRANSFORMERS_DETECTORS[detector].image_processor([0.5, 0.4, 0.3], [0.2, 0.3, 0.2], 128, 192)
    processor.save_pretrained(folder)
    return model, processor


@pytest.mark.slow
@pytest.mark.skipif(torch.__version__.startswith("2.6."), reason="its exporter fails on symbolic sizes")
@pytest.mark.parametrize("detector", [name for name in EXPORTED if name == "detr" or os.environ.get("MCL_ALL_GRAPHS")])
@torch.no_grad()
def test_the_graph_finds_what_the_detector_finds(detector, tmp_path):
    model, processor = tiny_detector(detector, tmp_path / "model")
    coverage = export_checkpoint(tmp_path / "model", tmp_path / "out", "onnx")
    assert coverage.given == coverage.total == len(model.state_dict())
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "detector.onnx"))
    padded = "pixel_mask" in [entry.name for entry in session.get_inputs()]
    assert session.get_inputs()[0].shape == ["batch", 3, "height", "width"]
    assert session.get_outputs()[0].shape == ["batch", 12 if detector != "deformable_detr" else 36, 4]
    for batch, height, width in SIZES:
        inputs = {"pixel_values": torch.randn(batch, 3, height, width)}
        if padded:
            inputs["pixel_mask"] = torch.ones(batch, height, width, dtype=torch.int64)
            inputs["pixel_mask"][-1, :, width - 32 :] = 0
        sizes = torch.tensor([[100 + image, 200] for image in range(batch)])
        wanted = processor.post_process_object_detection(model(**inputs), threshold=0.0, target_sizes=sizes)
        given = {name: tensor.numpy() for name, tensor in inputs.items()}
        found = session.run(None, {**given, "target_sizes": sizes.numpy()})
        for boxes, scores, labels, theirs in zip(*found, wanted, strict=True):
            np.testing.assert_allclose(scores, theirs["scores"], rtol=0, atol=1e-3)
            for box, score, label in zip(theirs["boxes"], theirs["scores"], theirs["labels"], strict=True):
                off = np.column_stack([np.abs(boxes - box.numpy()) / 100, np.abs(scores - score.item())])
                near = off.max(axis=1) < 1e-3  # boxes as shares of a picture of 100 px
                assert (near & (labels == label.item())).any()  # detections of equal scores stand in any order
            assert boxes.std(axis=0).max() > 1

    # The README's own example, from the file of a picture on.
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (150, 100, 3), np.uint8)).save(tmp_path / "picture.png")
    example: dict = {}
    exec(re.search(r"```python\n(.*?)```", (tmp_path / "out" / "README.md").read_text(), re.DOTALL)[1], example)
    detections = example["detect"](tmp_path / "picture.png", threshold=0.0)
    picture = Image.open(tmp_path / "picture.png")
    outputs = model(**processor(picture, return_tensors="pt"))
    wanted = processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=[(150, 100)])[0]
    np.testing.assert_allclose(sorted(row[1] for row in detections), wanted["scores"].sort().values, atol=0.02)


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        ({"size": {"height": 128, "width": 96}}, ["width, height = 96, 128"]),
        ({"size": {"shortest_edge": 64}}, ["scale = min(64 / min(picture.size), float('inf') / max(picture.size))"]),
        ({"do_normalize": False}, ["800 / min(picture.size), 1333 /", "(pixels - [0.0, 0.0, 0.0]) / [1.0, 1.0, 1.0]"]),
    ],
)
def test_the_readme_prepares_pictures_as_the_processor_does(tmp_path, monkeypatch, options, lines):
    tiny_detector("detr", tmp_path / "model")
    DetrImageProcessor(**options).save_pretrained(tmp_path / "model")
    for name in ("trace", "write_onnx"):  # which take their time
        monkeypatch.setattr(f"mcl_hf.transfer.detector_to_onnx.{name}", lambda *_: None)
    export_checkpoint(tmp_path / "model", tmp_path / "out", "onnx")
    text = (tmp_path / "out" / "README.md").read_text()
    assert all(line in text for line in lines)


def test_other_targets_and_networks_are_refused(tmp_path):
    tiny_detector("detr", tmp_path / "model")
    for to, options in (("timm", {}), ("pt2", {}), ("onnx", {"network": "target"})):
        with pytest.raises(InputError, match="a detr of transformers, of which --to onnx alone"):
            export_checkpoint(tmp_path / "model", tmp_path / "out", to, **options)
    assert not (tmp_path / "out").exists()


def test_what_torch_cannot_take_is_one_line(tmp_path, monkeypatch):
    tiny_detector("detr", tmp_path / "model")

    def fail(*_):
        raise RuntimeError("no such operator\nsecond line")

    monkeypatch.setattr("mcl_hf.transfer.detector_to_onnx.trace", fail)
    with pytest.raises(InputError, match=r"cannot take this detr: no such operator$"):
        export_checkpoint(tmp_path / "model", tmp_path / "out", "onnx")
    assert not (tmp_path / "out").exists()
