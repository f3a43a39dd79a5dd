"""Half precision rounds activations, and nothing else: boxes, indices of images and levels stay exact."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mcl_hf import MCLForPreTraining, MCLModel
from mcl_hf.models import region_cut
from mcl_hf.probe.region_features import features_of_boxes
from tests.models.tiny import tiny_config


@pytest.fixture
def model():
    torch.manual_seed(0)
    return MCLModel(tiny_config()).eval()


@pytest.fixture
def rois_read(monkeypatch):
    """Every `(K, 5)` that is cut out, in the order of the boxes of one level."""
    seen = []
    roi_align = region_cut.roi_align
    monkeypatch.setattr(
        region_cut, "roi_align", lambda maps, rois, *a, **k: seen.append(rois) or roi_align(maps, rois, *a, **k)
    )
    return seen


@torch.no_grad()
def test_boxes_and_the_images_they_are_of_are_exact_in_bf16(model, rois_read):
    boxes = [torch.tensor([[1.0 + index % 3, 3.0, 29.0, 31.0]]) for index in range(260)]
    pixels = torch.randn(260, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plain = model.embed_regions(pixels, boxes)
    expected, rois_read[:] = torch.cat(rois_read), []
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model.embed_regions(pixels, boxes)
    assert torch.equal(torch.cat(rois_read), expected)
    assert sorted(expected[:, 0].tolist()) == list(range(260))
    assert torch.nn.functional.cosine_similarity(found.float(), plain).min() > 0.99


@torch.no_grad()
def test_a_box_far_from_the_corner_is_not_moved_by_bf16(model, rois_read):
    box = torch.tensor([[1001.0, 603.0, 1067.0, 661.0]])
    model.cut_boxes([torch.zeros(1, 8, 800 // s, 1344 // s, dtype=torch.bfloat16) for s in (4, 8, 16, 32)], [box])
    assert torch.equal(torch.cat(rois_read)[:, 1:], box)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_level_of_a_box_does_not_depend_on_the_precision(model, dtype):
    model.config.region_size = 14
    maps = [torch.zeros(1, 8, 448 // stride, 448 // stride) for stride in (4, 8, 16, 32)]
    boxes = [torch.tensor([[0.0, 0.0, 300.0, 300.0], [0.0, 0.0, 316.0, 317.0]])]
    assert torch.equal(model.cut_boxes(maps, boxes)[1], model.cut_boxes([x.to(dtype) for x in maps], boxes)[1])


@torch.no_grad()
def test_features_of_c5_read_the_box_that_was_asked_for(model):
    images = torch.randint(0, 256, (1, 3, 64, 800), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    boxes = [torch.tensor([[601.0, 3.0, 667.0, 61.0]])]
    plain = features_of_boxes(model, images, boxes)["c5"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = features_of_boxes(model, images, boxes)["c5"]
    assert torch.nn.functional.cosine_similarity(found, plain).item() > 0.999


@pytest.mark.slow
@pytest.mark.skipif(
    torch.__version__.startswith("2.6.") and not torch.cuda.is_available(), reason="its fake tensors ask for a driver"
)
@pytest.mark.parametrize(
    ("fields", "dtype"),
    [({"queue_size": 6, "level_pairing": "all"}, torch.bfloat16), ({"region_scope": "published"}, torch.float16)],
    ids=["queue, all, bf16", "published, fp16"],
)
def test_a_step_under_the_autocast_of_cuda_reads_nothing_and_has_float32_losses(fields, dtype):
    """Fake tensors on "cuda:0" have no values, refuse tensors of the host, and follow CUDA's own rules of autocast."""
    model = MCLForPreTraining(tiny_config(**fields)).train()
    montages = {f"montage_{side}": model.draw_montages(4) for side in "ab"}
    with FakeTensorMode(allow_non_fake_inputs=False):
        for module in model.modules():
            for store in (module._parameters, module._buffers):
                for name, tensor in store.items():
                    if tensor is not None:
                        fake = torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda:0")
                        store[name] = nn.Parameter(fake, tensor.requires_grad) if store is module._parameters else fake
        sides = [torch.empty(4, 3, 64 // ratio, 64 // ratio, device="cuda:0") for ratio in model.config.montage_ratios]
        given = {name: [torch.empty(part.shape, dtype=part.dtype, device="cuda:0") for part in parts]
                 for name, parts in montages.items()}  # fmt: skip
        torch.set_autocast_enabled("cuda", True)
        torch.set_autocast_dtype("cuda", dtype)
        try:
            output = model(sides, sides, **given)
        finally:
            torch.set_autocast_enabled("cuda", False)
            torch.clear_autocast_cache()
    for name in ("loss", "level_losses", "positive_similarity", "negative_similarity", "feature_std"):
        assert output[name].device.type == "cuda" and output[name].dtype == torch.float32, name
