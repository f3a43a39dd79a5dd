"""A checkpoint of another recipe: refused where continuing would be wrong, named where it is a choice."""

import copy
import dataclasses
from pathlib import Path

import pytest

from mcl_hf.engine.resume import _CONTINUED, RecipeRules, check_model, check_recipe, continue_from
from mcl_hf.engine.state import TrainingState
from mcl_hf.errors import InputError
from mcl_hf.models import MCLConfig
from mcl_hf.pretraining.arguments import MODEL_FIELDS, PretrainArguments
from mcl_hf.pretraining.pretrain import RULES

CHECKPOINT = Path("run/checkpoints/step-00000007")
DATA = {"description": "5 images", "fingerprint": "abc", "num_images": 5}


def state(data=DATA, versions=None, world_size=1, global_batch_size=64, max_steps=10, **options):
    """The state that a run of the default recipe with these changes would save."""
    return TrainingState(
        step=7,
        world_size=world_size,
        global_batch_size=global_batch_size,
        max_steps=max_steps,
        arguments=dataclasses.asdict(PretrainArguments(**options)),
        data=data,
        versions=versions or {"torch": "2.15.0"},
    )


def test_the_same_recipe_needs_no_words_wherever_it_writes_and_however_it_reads():
    now = state(
        data={**DATA, "description": "5 images, moved"}, output_dir="elsewhere", resume="auto", num_workers=7,
        save_every_steps=5, keep_last=0, keep_every=10, log_every_steps=3, report_to=["tensorboard"], log_images=True,
        max_broken=0.5,
    )  # fmt: skip
    assert check_recipe(CHECKPOINT, state(), now, RULES) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 1}, "another seed: 0 before, 1 now"),
        ({"precision": "bf16"}, "another precision: fp32 before, bf16 now"),
        ({"base_learning_rate": 0.5}, "another base_learning_rate: 0.001 before, 0.5 now"),
        ({"warmup_steps": 3}, "another warmup_steps: None before, 3 now"),
        ({"gradient_accumulation_steps": 2}, "another gradient_accumulation_steps: 1 before, 2 now"),
        ({"channels_last": False}, "another channels_last: True before, False now"),
        ({"activation_checkpointing": True}, "another activation_checkpointing: False before, True now"),
        ({"compile": True}, "another compile: False before, True now"),
        ({"group_column": "scene"}, "another group_column: None before, scene now"),
        ({"image_column": "left"}, "another image_column: None before, left now"),
        ({"init": "timm:resnet50"}, "another init: None before, timm:resnet50 now"),
        ({"device": "cpu"}, "another device: auto before, cpu now"),
        ({"world_size": 2}, "another world_size: 1 before, 2 now"),
        ({"global_batch_size": 128}, "another global_batch_size: 64 before, 128 now"),
        ({"max_steps": 20}, "another max_steps: 10 before, 20 now"),
        (
            {"data": {**DATA, "fingerprint": "abd", "num_images": 6}},
            "another data set: 5 images with fingerprint abc before, 6 images with fingerprint abd now",
        ),
        ({"versions": {"torch": "2.11.0"}}, "another release of torch: 2.15.0 before, 2.11.0 now"),
    ],
)
def test_a_choice_is_named_with_both_values(change, words):
    [line] = check_recipe(CHECKPOINT, state(), state(**change), RULES)
    assert line.startswith(f"warning: resuming with {words}; the run goes on, but is not the interrupted one")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"objective": "supervised"}, "was trained with objective contrastive, now it is supervised: use the same"),
        ({"optimizer": "lars"}, "was trained with optimizer adamw, now it is lars: use the same"),
        ({"max_steps": 6}, "is at step 7, beyond the 6 steps asked for$"),
        (
            {"max_steps": 6, "data": {**DATA, "num_images": 4}},
            "6 steps asked for; the data were 5 images with fingerprint abc, and are 4 images with",
        ),
    ],
)
def test_what_would_be_wrong_is_refused(change, words):
    with pytest.raises(InputError, match=words):
        check_recipe(CHECKPOINT, state(), state(**change), RULES)


@pytest.mark.parametrize("name", [*MODEL_FIELDS, "num_labels"])
def test_every_part_of_another_model_is_refused(name):
    saved, wanted = MCLConfig(), copy.deepcopy(MCLConfig())
    value = getattr(saved, name)
    other: object = {"backbone": "resnet18", "region_scope": "published", "level_pairing": "all"}.get(name, 5)
    if isinstance(value, list | tuple):
        other = [*value, *value]
    if name == "backbone_kwargs":
        other = {"drop_rate": 0.1}
    setattr(wanted, name, float(other) if name == "temperature" else other)
    with pytest.raises(InputError, match=rf"was trained with {name} .* \(now .*resume with the same model options"):
        check_model(CHECKPOINT, saved, wanted, (*MODEL_FIELDS, "num_labels"))


def test_an_option_that_an_older_checkpoint_does_not_know_is_no_change():
    saved = state()
    del saved.arguments["tf32"], saved.versions["torch"]
    assert check_recipe(CHECKPOINT, saved, state(), RULES) == []


def test_everything_that_a_run_counts_is_continued_and_nothing_that_describes_it():
    described = {"world_size", "global_batch_size", "max_steps", "arguments", "data", "versions", "task", "recipe"}
    joined = {"start", "machines", "changes"}
    assert {field.name for field in dataclasses.fields(TrainingState)} == described | joined | set(_CONTINUED)
    saved = TrainingState(step=7, best={"loss": 1.0}, tracker_ids={"wandb": "x"}, scaler={"scale": 2.0}, max_steps=9)
    fresh = TrainingState(max_steps=10)
    continue_from(fresh, saved, RULES)
    assert (fresh.step, fresh.best, fresh.tracker_ids, fresh.scaler) == (
        7,
        {"loss": 1.0},
        {"wandb": "x"},
        {"scale": 2.0},
    )
    assert fresh.max_steps == 10


def test_a_checkpoint_of_another_task_is_refused():
    other = state()
    other.task = "fine-tuning"
    with pytest.raises(InputError, match="is a checkpoint of pre-training, and this is fine-tuning"):
        check_recipe(CHECKPOINT, state(), other, RULES)


def test_another_task_has_its_own_rules():
    rules = RecipeRules(refused=("seed",), without_influence=frozenset({"precision"}), compared_elsewhere=frozenset())
    assert check_recipe(CHECKPOINT, state(), state(precision="bf16"), rules) == []
    with pytest.raises(InputError, match="was trained with seed 0, now it is 1"):
        check_recipe(CHECKPOINT, state(), state(seed=1), rules)


def test_a_run_keeps_the_history_of_its_options():
    """Of each time that it went on with others; what has no influence on the result is no part of it."""
    first, second, third = state(), state(max_steps=20, seed=1, num_workers=9), state(max_steps=20, seed=1)
    continue_from(second, first, RULES)
    assert second.changes == [
        {"from_step": 7, "options": {"seed": {"before": 0, "now": 1}, "max_steps": {"before": 10, "now": 20}}}
    ]
    second.step = 12
    continue_from(third, second, RULES)
    assert third.changes == second.changes  # an attempt with the same options adds nothing
    fourth = state(max_steps=20, precision="bf16", seed=1)
    continue_from(fourth, third, RULES)
    assert fourth.changes[1:] == [{"from_step": 12, "options": {"precision": {"before": "fp32", "now": "bf16"}}}]
