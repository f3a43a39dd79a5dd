"""A run's data: files chosen by name, images of four channels, views finished where the model is."""

import numpy as np
import pytest
from PIL import Image

from mcl_hf.errors import InputError
from mcl_hf.pretraining.arguments import load_arguments
from mcl_hf.pretraining.run_data import open_data


def test_files_are_chosen_by_name(photos):
    assert len(open_data(load_arguments(data=str(photos), data_files=["cats/*"]))) == 12
    arguments = load_arguments(data=str(photos), data_files="{cats,dogs}/0*.jpg")  # a recipe may give one text
    assert arguments.data_files == ["{cats,dogs}/0*.jpg"] and len(open_data(arguments)) == 10
    with pytest.raises(InputError, match="there are cats/01.jpg"):
        open_data(load_arguments(data=str(photos), data_files=["cows/*"]))


def test_views_finished_on_the_device_train_as_those_of_the_workers_do(tiny_run, read_log):
    losses = [
        [line["loss"] for line in read_log(tiny_run(place, augment_on=place).output_dir)] for place in ("cpu", "device")
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.02)  # one gray level here and there
    with pytest.raises(InputError, match="view_rendering direct only"):
        load_arguments(augment_on="device", view_rendering="published")


def test_images_of_four_channels_train(tiny_run, tmp_path, read_log):
    noise = np.random.default_rng(0)
    for number in range(8):
        pixels = noise.integers(0, 256, (60, 80, 4), dtype=np.uint8)
        (tmp_path / "four").mkdir(exist_ok=True)
        Image.fromarray(pixels, "RGBA").save(tmp_path / "four" / f"{number}.png")
    options = {"data": str(tmp_path / "four"), "num_channels": 4, "max_steps": 2}
    records = read_log(tiny_run("run", **options).output_dir)
    assert np.isfinite([record["loss"] for record in records]).all() and records[-1]["broken_images"] == 0
    with pytest.raises(InputError, match="4 channels .* instead of 5|channels"):
        tiny_run("five", **{**options, "num_channels": 5})
