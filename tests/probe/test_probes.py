"""Both probes, on networks and pictures whose answer is known."""

import json
import shutil

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from mcl_hf import MCLConfig, MCLForObjectDetection, MCLForPreTraining, MCLModel
from mcl_hf.annotations.open_data import open_detection_data
from mcl_hf.data import open_source
from mcl_hf.errors import InputError
from mcl_hf.probe import ObjectProbe, ViewProbe, probe_checkpoint
from mcl_hf.probe.networks import open_networks
from mcl_hf.probe.region_features import calibrate_norms, features_of_boxes, read_levels, undisturbed
from tests.scenes import write_scenes
from tests.tiny_detector import tiny_config

TINY = {
    "backbone": "resnet10t", "backbone_kwargs": {"channels": [8, 16, 16, 32], "stem_width": 8}, "fpn_channels": 8,
    "region_convs": 1, "region_size": 2, "hidden_dim": 16, "embedding_dim": 8,
}  # fmt: skip


class ColourNetwork(MCLModel):
    """A real model whose pyramid is the picture itself, averaged to each stride: features are mean colours."""

    def backbone_maps(self, pixel_values):
        wide = torch.nn.functional.pad(pixel_values, (0, 0, 0, 0, 0, self.config.fpn_channels - 3))
        return [torch.nn.functional.avg_pool2d(wide, stride) for stride in (4, 8, 16, 32)]


@pytest.fixture(scope="module")
def colours():
    """`ColourNetwork` whose FPN passes maps through and whose region head has no convolution."""
    model = ColourNetwork(MCLConfig(**{**TINY, "region_convs": 0}))
    model.fpn.forward = list
    return model.eval()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return MCLModel(MCLConfig(**TINY))


@pytest.fixture(scope="module")
def plain_colours(tmp_path_factory):
    """Twelve images of one colour each."""
    folder = tmp_path_factory.mktemp("colours")
    for number in range(12):
        colour = tuple(int(value) for value in np.random.default_rng(number).integers(0, 256, 3))
        Image.new("RGB", (90, 70), colour).save(folder / f"{number:02}.png")
    return folder


@pytest.fixture(scope="module")
def coloured_boxes(tmp_path_factory):
    """COCO data: 16 grey images, each with one red and one blue box, small to large."""
    folder = tmp_path_factory.mktemp("boxes")
    images, annotations = [], []
    for number in range(16):
        picture = Image.new("RGB", (200, 160), (120, 120, 120))
        side = 16 + 4 * number
        for category, (x, colour) in enumerate([(5, (220, 0, 0)), (105, (0, 0, 220))]):
            picture.paste(colour, (x, 40, x + side, 40 + side))
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": 3 * category + 1,
                 "bbox": [x, 40, side, side], "area": side * side, "iscrowd": 0}
            )  # fmt: skip
        picture.save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 200, "height": 160})
    categories = [{"id": 1, "name": "red"}, {"id": 4, "name": "blue"}]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "coco.json").write_text(json.dumps(coco))
    return folder / "coco.json"


def test_timm_weights_are_probed_with_their_own_statistics(tmp_path):
    torch.manual_seed(0)
    MCLModel(MCLConfig(**TINY, image_mean=[0.1, 0.2, 0.3])).save_pretrained(tmp_path / "ours")
    described = {"pretrained_cfg": {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}}
    network = timm.create_model(TINY["backbone"], num_classes=5, **TINY["backbone_kwargs"])
    timm.models.save_for_hf(network, tmp_path / "timm", model_config=described, safe_serialization=True)
    networks = open_networks([str(tmp_path / "ours"), f"timm:local-dir:{tmp_path / 'timm'}"])
    assert [network.config.image_mean for network, _ in networks] == [[0.1, 0.2, 0.3], [0.5, 0.5, 0.5]]
    assert "mean [0.5, 0.5, 0.5]" in networks[1][1]


def test_features_are_those_of_embed_regions_in_every_batch(model):
    images = torch.randint(0, 256, (3, 3, 96, 96), dtype=torch.uint8)
    boxes = [torch.tensor([[0.0, 0, 64, 64], [10, 10, 18, 18]]), torch.zeros(0, 4), torch.tensor([[5.0, 5, 40, 37]])]
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (model.config.image_mean, model.config.image_std))
    with undisturbed(model):
        found = features_of_boxes(model, images, boxes)
        expected = model.embed_regions((images / 255 - mean) / std, boxes)
    assert torch.allclose(found["embedding"], expected, atol=1e-5)
    assert found["levels"].tolist() == [3, 0, 2] and found["region_head"].shape == (3, 8)
    assert found["c5"].shape == (3, 32)


def test_undisturbed_leaves_modes_buffers_and_random_states(model):
    model.train()
    model.fpn.eval()
    modes = [module.training for module in model.modules()]
    buffers = {name: tensor.clone() for name, tensor in model.named_buffers()}
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with undisturbed(model):
        assert not any(module.training for module in model.modules()) and not torch.is_grad_enabled()
        torch.rand(5)
        features_of_boxes(model, torch.zeros(1, 3, 64, 64, dtype=torch.uint8), [torch.tensor([[0.0, 0, 64, 64]])])
    assert torch.equal(torch.rand(2), expected)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, buffers[name]) for name, tensor in model.named_buffers())
    model.eval()


def test_a_network_that_sees_colour_finds_every_plain_image_at_every_level(colours, plain_colours):
    probe = ViewProbe(open_source(str(plain_colours)), colours.config, num_images=12)
    measured = probe.measure(colours, ("region_head",))
    assert measured["levels"] == ["P2", "P3", "P4", "P5"] and measured["chance"] == 1 / 12
    table = np.array(measured["features"]["region_head"]["across"])
    assert table.shape == (4, 4) and (table == 1).all()  # every tile's box, cell and image belong together


def test_a_network_that_sees_nothing_is_at_chance(colours, plain_colours, monkeypatch):
    monkeypatch.setattr(colours, "backbone_maps", lambda x: [torch.ones(len(x), 8, x.shape[2] // s, x.shape[3] // s)
                                                             for s in (4, 8, 16, 32)])  # fmt: skip
    measured = ViewProbe(open_source(str(plain_colours)), colours.config, 12).measure(colours, ("region_head",))
    assert measured["features"]["region_head"]["same_level"] == pytest.approx(1 / 12)


def test_a_network_that_sees_colour_tells_red_from_blue_at_every_level(colours, coloured_boxes):
    probe = ObjectProbe(open_detection_data(coloured_boxes), colours.config, num_images=16)
    measured = probe.measure(colours, ("region_head",))
    numbers = measured["features"]["region_head"]
    assert numbers["knn"]["all"] == numbers["linear"]["all"] == 1
    assert (measured["images"], measured["objects"], measured["classes"]) == (16, 32, 2) and measured["chance"] == 0.5
    assert measured["sizes"]["large"] == 0 and numbers["knn"]["large"] is None
    assert measured["sizes"]["small"] + measured["sizes"]["medium"] == 16
    assert len(numbers["across"]) == 4


def test_a_network_that_sees_nothing_is_at_the_chance_of_the_crops(colours, coloured_boxes, monkeypatch):
    """Largest objects are of other classes, and of fewer, than all objects."""
    monkeypatch.setattr(colours, "backbone_maps", lambda x: [torch.ones(len(x), 8, x.shape[2] // s, x.shape[3] // s)
                                                             for s in (4, 8, 16, 32)])  # fmt: skip
    probe = ObjectProbe(open_detection_data(coloured_boxes), colours.config, num_images=16)
    probe.crop_classes = torch.tensor([0] * 12 + [1] * 4)
    measured = probe.measure(colours, ("region_head",))
    numbers, crops = measured["features"]["region_head"], measured["crops"]
    assert (crops["asked"], crops["balanced_chance"]) == (8, 0.5) and crops["chance"] > measured["chance"] == 0.5
    for level in ("same_level", "other_level"):
        assert numbers[level] == pytest.approx(crops["chance"]) and numbers["balanced"][level] == pytest.approx(0.5)


def test_objects_are_rendered_at_the_size_of_each_level(colours, coloured_boxes):
    probe = ObjectProbe(open_detection_data(coloured_boxes), colours.config, num_images=4)
    for level, side in read_levels(colours.config).items():
        crops = probe.crops[level].float()
        whole = crops.shape[-1]
        assert whole >= 2 * side and whole % 32 == 0 and whole < 2 * side + 32
        coloured = crops[:, 0] - crops[:, 2] > 100  # (n, side, side): the red one, listed before the blue one
        assert (coloured.sum(dim=(1, 2)).double().sqrt() - side).abs().max() < 1.5  # the object is `side` px wide
        middle = slice(whole // 2 - side // 4, whole // 2 + side // 4)
        assert coloured[:, middle, middle].all()
        assert (crops.amax(dim=1) - crops.amin(dim=1))[:, 0].lt(30).all()  # grey around it


def test_what_cannot_be_probed_is_refused(colours, plain_colours, coloured_boxes, tmp_path):
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(plain_colours / "00.png", alone)
    with pytest.raises(InputError, match="two images"):
        ViewProbe(open_source(str(alone)), colours.config)
    one_class = json.loads(coloured_boxes.read_text())
    one_class["annotations"] = [entry for entry in one_class["annotations"] if entry["category_id"] == 1]
    (coloured_boxes.parent / "one.json").write_text(json.dumps(one_class))
    with pytest.raises(InputError, match="2 classes"):
        ObjectProbe(open_detection_data(coloured_boxes.parent / "one.json"), colours.config)
    with pytest.raises(InputError, match="1 or 3 channels"):
        ViewProbe(open_source(str(plain_colours)), MCLConfig(**TINY, num_channels=4))


def test_every_kind_of_folder_is_probed_alike_and_twice_the_same(plain_colours, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    whole = MCLForPreTraining(MCLConfig(**TINY))
    whole.save_pretrained("whole")
    whole.mcl.save_pretrained("slim")
    shutil.copytree("whole", "run/checkpoints/last")
    results = probe_checkpoint("whole", "slim", "run", data=str(plain_colours), num_images=8)
    assert results[0].views == results[1].views == results[2].views and results[0].objects is None
    again = probe_checkpoint("slim", data=str(plain_colours), num_images=8)
    assert again[0].views == results[1].views


def test_random_and_timm_stand_beside_a_checkpoint_in_its_shape(model, tmp_path, monkeypatch):
    model.save_pretrained(tmp_path / "slim")
    (random, _), _ = open_networks(["random", str(tmp_path / "slim")])
    assert random.config.backbone_kwargs == TINY["backbone_kwargs"] and random.config.region_size == 2
    other = MCLConfig(**{**TINY, "region_size": 3})
    MCLModel(other).save_pretrained(tmp_path / "larger")
    with pytest.raises(InputError, match="region_size"):
        open_networks([str(tmp_path / "slim"), str(tmp_path / "larger")])
    with pytest.raises(InputError, match="timm:resnet18x: "):
        open_networks(["timm:resnet18x"])
    seen = []
    monkeypatch.setattr(
        "mcl_hf.probe.networks.load_starting_weights", lambda network, name: seen.append((network, name)) or "weights"
    )
    (loaded, line), _ = open_networks(["timm:resnet18.a1_in1k", str(tmp_path / "slim")])
    assert loaded.config.backbone == "resnet18" and loaded.config.fpn_channels == 8 and "only c5 is trained" in line
    assert seen == [(loaded, "timm:resnet18.a1_in1k")]


def test_networks_and_data_may_be_paths(model, tmp_path, plain_colours):
    model.save_pretrained(tmp_path / "model")
    (result,) = probe_checkpoint(tmp_path / "model", data=plain_colours, num_images=4)
    assert result.network == str(tmp_path / "model") and result.views["images"] == 4


def test_scenes_with_crowds_and_broken_images_are_probed(model, tmp_path):
    folder = write_scenes(tmp_path, 12, num_classes=2)
    next((folder / "train").iterdir()).write_bytes(b"no picture")
    probe = ObjectProbe(open_detection_data(folder, check_files=False, skip_broken=True), model.config, 12)
    measured = probe.measure(model)
    assert measured["images"] == 11 and set(measured["features"]) == {"region_head", "embedding", "c5"}


def test_random_weights_get_the_batch_statistics_of_what_they_are_asked_about():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    images = torch.randint(0, 256, (6, 3, 128, 128), dtype=torch.uint8)
    network, with_backbone = MCLModel(MCLConfig(**TINY)).eval(), MCLModel(MCLConfig(**TINY)).eval()
    calibrate_norms(with_backbone, images, backbone=True)
    calibrate_norms(network, images, backbone=False)  # as of a timm start, whose backbone has its own
    assert not any(module.training for module in [*network.modules(), *with_backbone.modules()])
    stems = [model.backbone.conv1[1].running_var for model in (network, with_backbone)]
    heads = [model.fpn.lateral[0].bn.running_var for model in (network, with_backbone)]
    assert torch.equal(stems[0], torch.ones_like(stems[0])) and not torch.equal(stems[1], torch.ones_like(stems[1]))
    assert all(not torch.equal(head, torch.ones_like(head)) for head in heads)


def test_a_detector_is_no_pretrained_model(tmp_path):
    MCLForObjectDetection(tiny_config("faster_rcnn")).save_pretrained(tmp_path / "detector")
    with pytest.raises(InputError, match="this is a fine-tuned detector, not a pre-trained model"):
        open_networks([str(tmp_path / "detector")])
