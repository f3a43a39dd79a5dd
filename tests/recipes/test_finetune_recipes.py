from dataclasses import asdict

import numpy as np
import pytest

from mcl_hf.errors import InputError
from mcl_hf.finetuning.arguments import RECIPES, FinetuneArguments, load_finetune_arguments
from mcl_hf.recipes import recipe_names

NAMES = (
    "auto", "cityscapes-maskrcnn-r50-fpn", "coco-maskrcnn-r50-fpn-1x", "coco-maskrcnn-r50-fpn-2x",
    "coco-retinanet-r50-fpn-1x", "voc-fasterrcnn-r50-fpn",
)  # fmt: skip
OF_TRANSFORMERS = (
    "coco-deformabledetr-r50", "coco-deimv2-r50", "coco-detr-r50", "coco-dfine-r50", "coco-mask2former-r50",
    "coco-rtdetrv2-r50",
)  # fmt: skip
SIDES = np.full(118_000, 480)


def test_the_recipes_are_these():
    assert recipe_names(RECIPES) == sorted(NAMES + OF_TRANSFORMERS)


@pytest.mark.parametrize("name", OF_TRANSFORMERS)
def test_recipes_of_transformers_detectors_are_what_holds_without_them(name):
    recipe = load_finetune_arguments(name)
    plain = FinetuneArguments(detector=recipe.detector).resolved(SIDES, SIDES)
    differing = [key for key, value in asdict(plain).items() if getattr(recipe.resolved(SIDES, SIDES), key) != value]
    length = ["split", "val_split", "num_workers", "epochs", "max_steps", "filter_empty", "global_batch_size",
              "save_every_steps"]  # fmt: skip
    assert set(differing) <= {*length, "freeze_at"}  # only a protocol freezes stages: a start may be random


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_leaves_no_gap(name):
    arguments = load_finetune_arguments(name).resolved(SIDES, SIDES)
    for option in ("base_learning_rate", "min_size_train", "max_size_test", "freeze_at", "eval_every_steps"):
        assert getattr(arguments, option) is not None
    assert arguments.config_fields()["min_size"] == arguments.min_size_test


def test_coco_1x_is_the_published_protocol():
    arguments = load_finetune_arguments("coco-maskrcnn-r50-fpn-1x").resolved(SIDES, SIDES)
    assert arguments.total_steps(118_000, 16) == 90_000 and arguments.milestones(90_000) == [60_000, 80_000]
    assert arguments.batch_sizes(world_size=8) == (2, 16)
    assert (arguments.base_learning_rate, arguments.warmup_steps, arguments.weight_decay) == (0.02, 1000, 1e-4)
    assert arguments.min_size_train == [640, 672, 704, 736, 768, 800] and arguments.max_size_train == 1333
    assert load_finetune_arguments("coco-maskrcnn-r50-fpn-2x").milestones(180_000) == [120_000, 160_000]


def test_a_recipe_of_another_task_is_said_to_be_one():
    with pytest.raises(InputError, match="'demo' is a recipe of mcl-hf pretrain"):
        load_finetune_arguments("demo")
