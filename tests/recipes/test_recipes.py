import dataclasses

import pytest

from mcl_hf.errors import InputError
from mcl_hf.models.timm_backbone import build_timm_network
from mcl_hf.pretraining.arguments import PretrainArguments, load_arguments
from mcl_hf.recipes import load_recipe, recipe_names

PRETRAINING = ("demo", "mcl-r50-in1k-100ep", "mcl-r10-cpu", "mcl-r18-small", "sup-mcl-r50", "mcl-convnext-tiny-dinov3")


@pytest.mark.parametrize("name", PRETRAINING)
def test_every_recipe_gives_arguments_and_a_model_configuration(name):
    assert name in recipe_names()
    arguments = load_arguments(name)
    config = arguments.model_config()
    assert config.image_size == 32 * config.region_size


def test_paper_recipe_has_the_published_numbers():
    arguments = load_arguments("mcl-r50-in1k-100ep")
    config = arguments.model_config()
    assert arguments.batch_sizes(world_size=32) == (128, 4096)
    assert arguments.base_learning_rate * 4096 / 256 == 16.0
    assert (arguments.total_steps(1_281_167, 4096), arguments.warmup_steps) == (31200, 3127)
    assert (arguments.optimizer, arguments.precision, arguments.weight_decay) == ("lars", "fp16", 1e-5)
    assert (arguments.min_lr, arguments.clip_grad_norm, arguments.target_momentum) == (1e-4, 500, 0.99)
    assert [int(128 * fraction) for fraction in config.montage_fractions] == [128, 32, 8, 4]
    assert (config.region_scope, arguments.view_rendering) == ("published", "published")
    network = build_timm_network(config.backbone, config.num_channels, config.backbone_kwargs)
    scales = {name: float(weight.detach().sum()) for name, weight in network.named_parameters() if "bn3.weight" in name}
    assert len(scales) == 16 and min(scales.values()) > 0  # the published ResNet's residual branches are open


def test_recipe_from_a_file(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(
        "base_learning_rate: 5e-4\nmontage_fractions: [1, 1/8]\nmontage_ratios: [1, 4]\nlevel_weights: [1, 1]\n"
    )
    arguments = load_arguments(str(path))
    assert arguments.base_learning_rate == 5e-4  # YAML reads 5e-4 as text
    assert arguments.montage_fractions == [1.0, 0.125]


def test_wrong_recipes_are_one_clear_line(tmp_path):
    known = [option.name for option in dataclasses.fields(PretrainArguments)]
    with pytest.raises(InputError, match=r"did you mean 'demo'"):
        load_recipe("dem0")
    typo = tmp_path / "typo.yaml"
    typo.write_text("learning_rate_base: 1\nbase_learning_rat: 3\n")
    with pytest.raises(InputError, match="unknown option"):
        load_recipe(str(typo), known)
    typo.write_text("max_step: 3\n")
    with pytest.raises(InputError, match="did you mean 'max_steps'"):
        load_recipe(str(typo), known)
    with pytest.raises(InputError, match="cannot be read"):
        load_recipe(str(tmp_path / "absent.yaml"))
    typo.write_text("just text")
    with pytest.raises(InputError, match="option: value"):
        load_recipe(str(typo))
    typo.write_text("a: [1\n")
    with pytest.raises(InputError, match="no valid YAML"):
        load_recipe(str(typo))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("seed: " + "[" * 5000, "nested too deeply"),
        ("seed: " + "9" * 5000, "no valid YAML"),
        ("seed: !!python/object/apply:os.getcwd []", "no valid YAML"),
        ("seed: 1\n---\nseed: 2", "no valid YAML"),
        ("seed: 2020-01-01", "seed must be a whole number"),
        ("seed: !!timestamp soon", "no valid YAML"),
        ("seed: !!bool x", "no valid YAML"),
        ("seed: 1\nmax_steps: 2\nseed: 3", "'seed' is given 2 times"),
        ("extra: {a: 1, b: 2, a: 3}", "'a' is given 2 times"),
        ("seed: 9999999999999999999999", "seed must be"),
        ("base_learning_rate: .nan", "base_learning_rate must be a number"),
        ("weight_decay: 1e400", "weight_decay must be a number"),
        ('output_dir: "a\\0b"', "output_dir holds a NUL character"),
        ("7", "list of 'option: value' lines"),
    ],
)
def test_odd_yaml_is_one_line(tmp_path, text, told):
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=told) as caught:
        load_arguments(str(path))
    assert "\n" not in str(caught.value)
