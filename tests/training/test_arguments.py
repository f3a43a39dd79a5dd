import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from mcl_hf.errors import InputError
from mcl_hf.finetuning.arguments import FinetuneArguments
from mcl_hf.models.configuration_mcl import MCLConfig
from mcl_hf.pretraining.arguments import MODEL_FIELDS, PretrainArguments, load_arguments


def test_every_option_has_a_help_text_and_every_model_field_is_one_of_the_configuration():
    assert all(option.description for option in PretrainArguments.__pydantic_fields__.values())
    config_fields = {option.name for option in dataclasses.fields(MCLConfig)}
    assert set(MODEL_FIELDS) <= config_fields


def test_model_fields_that_are_not_set_take_the_default_of_the_configuration():
    config = PretrainArguments(backbone="resnet18", temperature=1).model_config()
    assert (config.backbone, config.temperature, config.fpn_channels) == ("resnet18", 1.0, MCLConfig.fpn_channels)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_steps": 0}, "max_steps must be at least 1"),
        ({"max_steps": "-3"}, "max_steps must be at least 1, got -3"),
        ({"batch_size": 1}, "need two images"),
        ({"max_steps": 3, "epochs": 1}, "both set"),
        ({"batch_size": 4, "global_batch_size": 4}, "both set"),
        ({"objective": "supervised", "queue_size": 8}, "contrastive objective"),
        ({"optimizer": "adam"}, "one of lars, adamw, sgd"),
        ({"precision": "fp8"}, "one of auto, fp32, bf16, fp16"),
        ({"base_learning_rate": "fast"}, "must be a number"),
        ({"max_steps": 1.5}, "whole number"),
        ({"channels_last": "yes"}, "true or false"),
        ({"seed": True}, "whole number"),
        ({"target_momentum": 1.5}, "must be at most 1, got 1.5"),
        ({"base_learning_rate": 0}, "above 0"),
        ({"montage_ratios": 3}, "must be a list"),
        ({"resume": ""}, "resume is empty"),
    ],
)
def test_wrong_values_are_one_clear_line(given, message):
    with pytest.raises(InputError, match=message) as caught:
        PretrainArguments(**given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "given", "found"),
    [
        ("output_dir", Path("run"), "run"),
        ("data", Path("a"), ["a"]),
        ("data", [Path("a"), "b"], ["a", "b"]),
        ("data", np.array(["a", "b"]), ["a", "b"]),
        ("data", (name for name in "ab"), ["a", "b"]),
        ("seed", np.int64(3), 3),
        ("seed", torch.tensor(3), 3),
        ("max_steps", np.float64(5), 5),
        ("compile", np.bool_(True), True),
        ("weight_decay", torch.tensor(0.5), 0.5),
        ("montage_ratios", range(1, 3), [1, 2]),
        ("montage_fractions", np.array([1, 0.5]), [1.0, 0.5]),
        ("backbone_kwargs", {"drop_rate": np.float64(0.5)}, {"drop_rate": 0.5}),
    ],
)
def test_values_of_python_are_those_of_the_command(name, given, found):
    assert getattr(PretrainArguments(**{name: given}), name) == found


def test_shares_of_a_run_may_be_numbers_and_no_number_is_too_large_to_be_refused():
    assert FinetuneArguments(lr_milestones=[0.5, 0.75]).milestones(8) == [4, 6]
    with pytest.raises(InputError, match="weight_decay must be a number"):
        PretrainArguments(weight_decay="9" * 400 + "/1")


def test_contradictions_of_the_model_and_unknown_backbones_are_input_errors():
    with pytest.raises(InputError, match="one value a level"):
        PretrainArguments(backbone="resnet18", level_weights=[1.0]).model_config()
    with pytest.raises(InputError, match="resnet99"):
        PretrainArguments(backbone="resnet99").model_config()


def test_batch_sizes():
    arguments = PretrainArguments(global_batch_size=48, gradient_accumulation_steps=3)
    assert arguments.batch_sizes(world_size=2) == (8, 48)
    with pytest.raises(InputError, match="use a multiple of 15"):
        arguments.batch_sizes(world_size=5)
    assert PretrainArguments().batch_sizes(world_size=2) == (64, 128)


def test_steps_from_epochs():
    assert PretrainArguments(epochs=2).total_steps(num_images=100, global_batch_size=32) == 6
    assert PretrainArguments(max_steps=5).total_steps(num_images=100, global_batch_size=32) == 5


def test_overrides_replace_the_other_half_of_a_pair():
    arguments = load_arguments("demo", epochs=1, global_batch_size=8)
    assert (arguments.max_steps, arguments.batch_size) == (None, None)
    assert (arguments.epochs, arguments.global_batch_size) == (1.0, 8)
    with pytest.raises(InputError, match="did you mean 'max_steps'"):
        load_arguments("demo", max_step=3)


def test_a_recipes_columns_are_those_of_its_own_data():
    assert load_arguments("demo").group_column == "source_image"
    for same in ("photos", ["photos"], ("photos",)):  # the second is what the command line gives
        assert load_arguments("demo", data=same).group_column == "source_image"
    fractions = load_arguments("demo").montage_fractions
    for same in ([1, 2, 4, 8], ["1", "2", "4", "8"], "1,2,4,8"):
        assert load_arguments("demo", montage_ratios=same).montage_fractions == fractions
    assert load_arguments("demo", montage_ratios=[1]).montage_fractions is None
    assert load_arguments("demo", data="my-images").group_column is None
    assert load_arguments("demo", data="my-images", group_column="video").group_column == "video"
    assert load_arguments("demo", group_column="none").group_column is None


def test_a_recipes_timm_arguments_are_those_of_its_own_backbone():
    narrow = load_arguments("demo").backbone_kwargs
    assert narrow and load_arguments("demo", backbone="convnext_atto").backbone_kwargs is None
    assert load_arguments("demo", backbone="convnext_atto", backbone_kwargs=narrow).backbone_kwargs == narrow
