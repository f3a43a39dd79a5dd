"""What is behind the page, without Gradio: every kind of checkpoint opens, and what is drawn of it is right."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, DetrConfig, DetrForObjectDetection, DetrImageProcessor

from mcl_hf import MCLConfig, MCLImageProcessor, MCLModel
from mcl_hf.cli import main
from mcl_hf.demo import page
from mcl_hf.demo.subject import (
    Subject,
    detect,
    draw_detections,
    embedded_pictures,
    find_region,
    for_regions,
    open_subject,
    region_around,
    shown_scale,
    with_region,
)
from mcl_hf.errors import InputError
from mcl_hf.viz.similarity import usual_side
from tests.tiny_detector import tiny_config, tiny_detector

BACKBONE = {"backbone": "resnet10t", "backbone_kwargs": {"channels": [8, 16, 24, 32], "stem_width": 8}}


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((128, 96))


def saved(model: object, processor: object, folder: Path) -> str:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


@pytest.mark.slow
def test_the_embedded_checkpoint_is_looked_at_with_embedded_photos():
    subject = open_subject("demo")
    assert subject.processor is None and subject.summary.startswith("resnet10t with feature pyramid")
    assert subject.curves is not None and subject.curves.width == 1500
    first, second = embedded_pictures()
    assert np.asarray(first).std() > 20 and first.size == second.size == (208, 208)
    side = usual_side(subject.model, first)
    assert side == 48
    box = region_around(first, (112, 110), side)
    same, other = find_region(subject.model, first, box), find_region(subject.model, first, box, second)
    assert same.size == other.size and np.asarray(same).std() > 20
    assert np.abs(np.asarray(same).astype(int) - np.asarray(other).astype(int)).mean() > 5


def test_a_region_stays_in_its_picture_and_is_framed_where_it_lies(picture):
    assert region_around(picture, (64, 48), 20) == (54, 38, 74, 58)
    assert region_around(picture, (2, 95), 20) == (0, 76, 20, 96)
    assert region_around(picture, (64, 48), 500) == (16, 0, 112, 96)
    framed = np.asarray(with_region(picture, (54, 38, 74, 58)))
    scale = shown_scale(picture)
    assert scale == 5 and framed.shape == (480, 640, 3)
    red = np.argwhere((framed == (0xD7, 0x19, 0x1C)).all(axis=-1))
    assert red.min(axis=0).tolist() == [38 * 5, 54 * 5] and red.max(axis=0).tolist() == [58 * 5, 74 * 5]
    assert for_regions(picture.resize((1024, 768))).size == (512, 384)


@pytest.mark.parametrize("detector", ["mask_rcnn", "retinanet"])
def test_a_detector_of_ours(detector, picture, tmp_path):
    config = tiny_config(detector, id2label={0: "cup", 1: "pen", 2: "\x1b[31mhat"})
    model = tiny_detector(detector, id2label=config.id2label)
    subject = open_subject(saved(model, MCLImageProcessor.from_config(config), tmp_path))
    assert subject.summary.startswith(f"{detector} for 3 classes") and subject.curves is None
    found = detect(subject, picture)
    assert len(found.scores) > 0 and (found.masks is not None) == (detector == "mask_rcnn")
    everything, said = draw_detections(subject, picture, found, 0.0)
    assert everything.size == (900, 675) and said.startswith(f"{len(found.scores)} of {len(found.scores)} objects")
    assert "\x1b" not in said
    strip = picture.crop((0, 0, 1, 96))
    assert draw_detections(subject, strip, detect(subject, strip), 0.0)[0].size == (9, 900)
    nothing, said = draw_detections(subject, picture, found, 1.0)
    assert said == f"0 of {len(found.scores)} objects score at least 1.00, the highest {found.scores.max():.3g}"
    assert np.array_equal(np.asarray(nothing), np.asarray(picture.resize((900, 675), Image.Resampling.LANCZOS)))
    assert not np.array_equal(np.asarray(nothing), np.asarray(everything))


def test_a_detector_of_transformers(picture, tmp_path):
    small = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = DetrConfig(
        backbone_config=MCLConfig(**BACKBONE), d_model=32, num_queries=5, num_labels=2, encoder_ffn_dim=32,
        decoder_ffn_dim=32, **small,
    )  # fmt: skip
    torch.manual_seed(0)
    processor = DetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    subject = open_subject(saved(DetrForObjectDetection(config), processor, tmp_path))
    assert isinstance(subject.processor, type(AutoImageProcessor.from_pretrained(tmp_path)))
    found = detect(subject, picture)
    assert len(found.scores) == 5
    assert draw_detections(subject, picture, found, 0.0)[1].startswith("5 of 5 objects")


def test_what_cannot_be_looked_at_is_one_line(tmp_path):
    config = MCLConfig(**BACKBONE, num_channels=5, fpn_channels=8, hidden_dim=8, embedding_dim=8)
    satellite = saved(MCLModel(config), MCLImageProcessor.from_config(config), tmp_path / "satellite")
    for name, said in ((satellite, "5 channels"), (str(tmp_path / "nothing"), "no checkpoint at")):
        with pytest.raises(InputError, match=said):
            open_subject(name)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--image", "a.jpg", "b.jpg", "c.jpg"], "one or two pictures"),
        (["--port", "70000"], "--port must be 1 to 65535"),
        (["--share"], "unrecognized arguments: --share"),
    ],
)
def test_wrong_options_are_one_line(options, said, capsys):
    assert main(["demo", "demo", *options]) == 2
    shown = capsys.readouterr().err
    assert said in shown and shown.count("\n") == 1


def test_without_gradio_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "gradio", None)
    assert main(["demo"]) == 2
    shown = capsys.readouterr().err
    assert "pip install 'mcl_hf[demo]'" in shown and shown.count("\n") == 1


def test_a_detectors_page_takes_one_picture(monkeypatch):
    monkeypatch.setattr(page, "_gradio", lambda: None)
    detector = Subject("mine", None, processor=object(), curves=None)
    with pytest.raises(InputError, match="begins with one picture, got 2"):
        page.build_page(detector, [Image.new("RGB", (8, 8))] * 2)
