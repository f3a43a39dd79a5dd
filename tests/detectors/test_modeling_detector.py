"""The detectors as transformers models: saved, reloaded, trained, in other precisions, with odd batches."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForInstanceSegmentation, AutoModelForObjectDetection

from mcl_hf import MCLForInstanceSegmentation, MCLForObjectDetection
from mcl_hf.detectors.heads import BoxHead
from mcl_hf.models import convert_cross_rank_norm
from mcl_hf.models.cross_rank_norm import CrossRankBatchNorm2d
from tests.tiny_detector import DETECTORS, tiny_config, tiny_detector, tiny_labels

DOORS = {
    "mask_rcnn": AutoModelForInstanceSegmentation,
    "faster_rcnn": AutoModelForObjectDetection,
    "retinanet": AutoModelForObjectDetection,
}


def outputs_of(model, pixels: torch.Tensor, **kwargs) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return dict(model(pixels, **kwargs))


@pytest.mark.parametrize("detector", DETECTORS)
def test_a_saved_detector_reopens_bit_for_bit(detector: str, tmp_path: Path) -> None:
    model = tiny_detector(detector)
    model.save_pretrained(tmp_path)
    again, info = DOORS[detector].from_pretrained(tmp_path, output_loading_info=True)
    assert type(again) is type(model) and not again.training
    assert not info["missing_keys"] and not info["unexpected_keys"]
    pixels = torch.randn(2, 3, 64, 96)
    expected, found = outputs_of(model, pixels), outputs_of(again, pixels)
    assert len(expected["pred_scores"][0]) > 0
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("detector", DETECTORS)
def test_a_detector_loads_in_bfloat16(detector: str, tmp_path: Path) -> None:
    tiny_detector(detector).save_pretrained(tmp_path)
    model = DOORS[detector].from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    output = model(torch.randn(1, 3, 64, 64).bfloat16())
    assert output.pred_boxes.dtype == torch.float32 and output.pred_boxes.isfinite().all()


@pytest.mark.parametrize("detector", DETECTORS)
def test_what_a_checkpoint_lacks_is_initialised(detector: str, tmp_path: Path) -> None:
    """From the meta device: heads start as in a new model, nothing is left over from uninitialised memory."""
    model_class = MCLForInstanceSegmentation if detector == "mask_rcnn" else MCLForObjectDetection
    model_class(tiny_config(detector)).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    lean = {name: tensor for name, tensor in tensors.items() if name.startswith("backbone.")}
    save_file(lean, tmp_path / "model.safetensors", {"format": "pt"})
    again = DOORS[detector].from_pretrained(tmp_path)
    for name, tensor in again.state_dict().items():
        assert tensor.isfinite().all(), name
        if name.startswith("backbone."):
            assert torch.equal(tensor, tensors[name]), name
        elif tensor.numel() > 500 and tensor.is_floating_point():  # enough values for their spread to be known
            assert tensor.std().item() == pytest.approx(tensors[name].std().item(), rel=0.25), name
    if detector == "retinanet":
        assert again.retinanet.head.classification_head.cls_logits.bias[0].item() == pytest.approx(-4.595, abs=1e-3)


def test_a_mask_rcnn_folder_opens_as_a_box_detector(tmp_path: Path) -> None:
    model = tiny_detector("mask_rcnn")
    model.save_pretrained(tmp_path)
    boxes_only = AutoModelForObjectDetection.from_pretrained(tmp_path)
    assert type(boxes_only) is MCLForObjectDetection and boxes_only.config.detector == "faster_rcnn"
    pixels = torch.randn(1, 3, 64, 64)
    expected, found = outputs_of(model, pixels), outputs_of(boxes_only, pixels)
    assert "pred_masks" in expected and "pred_masks" not in found
    assert all(torch.equal(found[name], expected[name]) for name in found)
    with pytest.raises(ValueError, match="retinanet has no masks"):
        MCLForInstanceSegmentation(tiny_config("retinanet"))


@pytest.mark.parametrize("detector", DETECTORS)
def test_detections_do_not_depend_on_the_batch(detector: str) -> None:
    model = tiny_detector(detector)
    images = [torch.randn(3, height, width) for height, width in ((64, 96), (50, 60), (64, 90), (96, 40))]
    batch = torch.zeros(4, 3, 96, 128)
    mask = torch.zeros(4, 96, 128, dtype=torch.int64)
    for index, image in enumerate(images):
        batch[index, :, : image.shape[1], : image.shape[2]] = image
        mask[index, : image.shape[1], : image.shape[2]] = 1
    together = outputs_of(model, batch, pixel_mask=mask)
    for index, image in enumerate(images):
        alone = outputs_of(model, image[None])
        count = len(alone["pred_scores"][0])
        assert count > 0
        for name, values in alone.items():
            assert torch.allclose(together[name][index, :count], values[0], atol=1e-5), name
        assert (together["pred_labels"][index, count:] == -1).all() and not together["pred_scores"][index, count:].any()
    sizes = [tuple(image.shape[1:]) for image in images]
    by_sizes = outputs_of(model, batch, image_sizes=sizes)
    assert all(torch.equal(by_sizes[name], together[name]) for name in together)


@pytest.mark.parametrize("detector", DETECTORS)
def test_training_steps_lower_the_loss(detector: str) -> None:
    model = tiny_detector(detector).train()
    pixels = torch.randn(2, 3, 64, 96)
    labels = [tiny_labels(64, 96, objects=2), tiny_labels(64, 96, objects=1, seed=1)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(60):
        output = model(pixels, labels=labels, generator=torch.Generator().manual_seed(0))
        assert output.loss.item() == pytest.approx(sum(loss.item() for loss in output.loss_dict.values()), rel=1e-5)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(output.loss.item())
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5]), losses


@pytest.mark.parametrize("detector", DETECTORS)
def test_images_without_objects_train(detector: str) -> None:
    """One among others, and a whole batch: finite losses, a gradient for every parameter, sane running statistics."""
    for counts in ((0, 2), (0, 0)):
        model = tiny_detector(detector).train()
        labels = [tiny_labels(64, 64, objects=count) for count in counts]
        output = model(torch.randn(2, 3, 64, 64), labels=labels)
        output.loss.backward()
        assert output.loss.isfinite()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert all(buffer.isfinite().all() for buffer in model.buffers())
        if detector == "mask_rcnn" and counts == (0, 0):
            assert output.loss_dict["loss_mask"] == 0
            assert model.roi_heads.mask_head.conv[0].bn.running_mean.any()  # batch norm saw a region


@pytest.mark.parametrize("detector", DETECTORS)
def test_autocast_in_bfloat16(detector: str) -> None:
    model = tiny_detector(detector)
    pixels, labels = torch.randn(1, 3, 64, 64), [tiny_labels(64, 64)]
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    plain = model.train()(pixels, labels=labels, generator=generators[0])
    with torch.autocast("cpu", torch.bfloat16):
        output = model(pixels, labels=labels, generator=generators[1])
        detected = model.eval()(pixels)
    assert output.loss.dtype == torch.float32
    # the stage whose samples do not depend on the network: other proposals make other losses of the second
    first = "loss_classifier" if detector == "retinanet" else "loss_objectness"
    assert output.loss_dict[first].item() == pytest.approx(plain.loss_dict[first].item(), rel=0.02)
    output.loss.backward()
    assert detected.pred_boxes.dtype == torch.float32
    # anchors and boxes stay exact: in bfloat16 coordinates of 64 px would be multiples of half a pixel
    pixels_of_boxes = detected.pred_boxes[0] * 64
    assert ((pixels_of_boxes * 2).frac().abs() > 1e-3).any()


@pytest.mark.parametrize("detector", DETECTORS)
def test_channels_last_changes_nothing_but_speed(detector: str) -> None:
    model = tiny_detector(detector)
    pixels = torch.randn(2, 3, 64, 64)
    expected = outputs_of(model, pixels)
    model = model.to(memory_format=torch.channels_last)
    found = outputs_of(model, pixels.contiguous(memory_format=torch.channels_last))
    for name, values in expected.items():
        assert torch.allclose(found[name], values, atol=1e-4), name
    if detector == "mask_rcnn":
        seen = []
        model.roi_heads.box_head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        outputs_of(model, pixels.contiguous(memory_format=torch.channels_last))
        assert seen[0].is_contiguous(memory_format=torch.channels_last)


def test_the_generator_decides_what_is_sampled() -> None:
    model = tiny_detector("faster_rcnn", rpn_batch_size_per_image=4, box_batch_size_per_image=4).train()
    pixels, labels = torch.randn(2, 3, 64, 64), [tiny_labels(64, 64), tiny_labels(64, 64, seed=1)]

    def loss(seed: int, global_seed: int) -> float:
        torch.manual_seed(global_seed)
        return model(pixels, labels=labels, generator=torch.Generator().manual_seed(seed)).loss.item()

    assert loss(0, 0) == loss(0, 1) != loss(1, 0)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    loss_of_global = model(pixels, labels=labels).loss.item()
    torch.set_rng_state(state)
    assert loss_of_global == model(pixels, labels=labels).loss.item()


@pytest.mark.parametrize("detector", DETECTORS)
def test_labels_in_eval_mode_give_losses_and_detections(detector: str) -> None:
    model = tiny_detector(detector)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    mask = torch.zeros(2, 64, 96, dtype=torch.int64)
    mask[0, :64, :64] = mask[1] = 1
    labels = [tiny_labels(64, 64), tiny_labels(64, 96, seed=1)]
    pixels = torch.randn(2, 3, 64, 96) * mask[:, None]
    both = outputs_of(model, pixels, pixel_mask=mask, labels=labels, generator=torch.Generator().manual_seed(0))
    assert both["loss"].isfinite()
    plain = outputs_of(model, pixels, pixel_mask=mask)
    assert "loss" not in plain
    assert all(torch.equal(both[name], plain[name]) for name in plain)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_batch_norm_over_ranks_finds_all() -> None:
    model = tiny_detector("mask_rcnn")
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    convert_cross_rank_norm(model)
    converted = [module for module in model.modules() if isinstance(module, CrossRankBatchNorm2d)]
    inside = {name.split(".")[0] for name, module in model.named_modules() if module in converted}
    assert {"fpn", "roi_heads"} <= inside
    assert all(type(module) is not nn.BatchNorm2d for module in norms)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": None}, "training mode needs labels"),
        ({"labels": []}, "labels of 0 images for 1 images"),
        ({"labels": [{"boxes": torch.zeros(0, 4)}]}, "lack class_labels, masks"),
        ({"class_labels": torch.tensor([3, 0])}, "classes outside of 0 to 2"),
        ({"boxes": torch.tensor([[0.5, 0.5, 0.0, 0.1], [0.5, 0.5, 0.2, 0.1]])}, "without width or height"),
        ({"boxes": torch.zeros(2, 5)}, "need class_labels"),
        ({"masks": torch.ones(2, 30, 64)}, "masks of image 0 need shape"),
        ({"masks": torch.ones(2)}, "masks of image 0 need shape"),
        ({"pixel_mask": torch.ones(1, 10, 64)}, "pixel_mask must have shape"),
        ({"image_sizes": [(64, 65)]}, "do not fit pixel_values"),
    ],
)
def test_wrong_inputs_are_named(change: dict, message: str) -> None:
    model = tiny_detector("mask_rcnn").train()
    inputs = {"pixel_values": torch.randn(1, 3, 64, 64), "labels": [tiny_labels(64, 64)]}
    if change.keys() & {"class_labels", "boxes", "masks"}:
        inputs["labels"][0].update(change)
    else:
        inputs |= change
    with pytest.raises(ValueError, match=message):
        model(**inputs)
    with pytest.raises(ValueError, match="eval mode"):
        model.detections(inputs["pixel_values"])


@pytest.mark.parametrize("detector", ["mask_rcnn", "faster_rcnn"])
def test_images_without_proposals_and_objects_train(detector: str) -> None:
    """No score reaches the threshold: the whole picture is background, and every parameter has a finite gradient."""
    model = tiny_detector(detector, rpn_score_thresh=0.9).train()
    output = model(torch.randn(2, 3, 64, 96), labels=[tiny_labels(64, 96, objects=0)] * 2)
    output.loss.backward()
    assert output.loss.isfinite()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("objects", [0, 2])
def test_a_network_that_is_nan_has_a_loss_that_says_so(detector: str, objects: int) -> None:
    model = tiny_detector(detector).train()
    for level in model.fpn.output:
        torch.nn.init.constant_(level.conv.weight, float("nan"))
    assert model(torch.randn(1, 3, 64, 96), labels=[tiny_labels(64, 96, objects)]).loss.isnan()


@pytest.mark.parametrize("detector", DETECTORS)
def test_a_box_thinner_than_float32_can_tell_has_a_finite_loss(detector: str) -> None:
    model = tiny_detector(detector).train()
    label = tiny_labels(64, 96, objects=2)
    label["boxes"][0, 2] = 1e-9  # of the width: more than nothing, and no number of px at its place
    assert model(torch.randn(1, 3, 64, 96), labels=[label]).loss.isfinite()


@pytest.mark.parametrize("detector", DETECTORS)
def test_hidden_states_are_the_stages_of_all_images(detector: str) -> None:
    """In eval mode images are computed at their own padded sizes; in train mode gradients pass through the maps."""
    model = tiny_detector(detector)
    pixels = torch.randn(2, 3, 64, 96)
    assert outputs_of(model, pixels).get("hidden_states") is None
    states = outputs_of(model, pixels, image_sizes=[(64, 96), (40, 33)], output_hidden_states=True)["hidden_states"]
    assert [tuple(states[index].shape[2:]) for index in range(5)] == [(32, 48), (16, 24), (8, 12), (4, 6), (2, 3)]
    alone = outputs_of(model, pixels[:1], output_hidden_states=True)["hidden_states"]
    for state, expected in zip(states, alone, strict=True):
        torch.testing.assert_close(state[0], expected[0])
    assert not states[-1][1, :, :, 2:].any()
    model.config.output_hidden_states = True
    output = model.train()(pixels, labels=[tiny_labels(64, 96)] * 2)
    output.hidden_states[0].retain_grad()
    output.loss.backward()
    assert output.hidden_states[0].grad.any()


@pytest.mark.parametrize("detector", DETECTORS)
def test_logits_of_padded_detections_are_finite(detector: str) -> None:
    output = outputs_of(tiny_detector(detector), torch.randn(2, 3, 64, 96), image_sizes=[(64, 96), (2, 2)])
    assert output["logits"].isfinite().all()
    assert torch.equal(output["logits"].sigmoid() > 0, output["logits"] > torch.finfo(torch.float32).min)


def test_a_loss_in_eval_mode_is_a_function_of_the_weights() -> None:
    model, pixels = tiny_detector("faster_rcnn"), torch.randn(1, 3, 64, 96)
    labels = [tiny_labels(64, 96)]
    assert outputs_of(model, pixels, labels=labels)["loss"] == outputs_of(model, pixels, labels=labels)["loss"]


@pytest.mark.parametrize("detector", ["mask_rcnn", "retinanet"])
def test_transformers_trainer_recomputes_activations(detector: str, tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    data = [{"pixel_values": torch.rand(3, 64, 96), "labels": tiny_labels(64, 96, 2, index)} for index in range(4)]

    def collate(rows):
        return {
            "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
            "labels": [r["labels"] for r in rows],
        }

    def train(**options):
        model = tiny_detector(detector)
        arguments = TrainingArguments(
            output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=2, use_cpu=True, report_to=[], seed=0,
            save_strategy="no", remove_unused_columns=False, disable_tqdm=True, **options
        )  # fmt: skip
        Trainer(model=model, args=arguments, train_dataset=data, data_collator=collate).train()
        assert model.gradient_checkpointing == bool(options)
        return model.state_dict()

    plain, recomputed = train(), train(gradient_checkpointing=True)
    assert all(torch.equal(tensor, recomputed[name]) for name, tensor in plain.items())


def test_a_layer_of_the_box_head_may_be_wrapped():
    """As by LoRA or dynamic quantization, which put modules of other types in its place."""
    head, regions = BoxHead(4, 1, False, [16, 8, 8]), torch.rand(3, 4, 2, 2)
    expected = head(regions)
    head.fc1 = torch.nn.Sequential(head.fc1)
    assert torch.equal(head(regions), expected)
