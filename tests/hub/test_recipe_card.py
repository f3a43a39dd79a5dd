"""The cards in `model_cards/` are those that the recipes give, and claim no weights and no numbers."""

import re
from pathlib import Path

import pytest

from mcl_hf.errors import InputError
from mcl_hf.hub.card import TEMPLATE, check_card
from mcl_hf.hub.recipe_card import recipe_card
from mcl_hf.recipes import TASKS, load_recipe, recipe_names

ROOT = Path(__file__).parents[2]
CARDS = ROOT / "model_cards"
NAMES = [(task, name) for task in TASKS for name in recipe_names(task)]


@pytest.mark.parametrize(("task", "name"), NAMES, ids=[name for _, name in NAMES])
def test_the_card_of_a_recipe_is_what_the_recipe_gives(task, name):
    text = recipe_card(name)
    file = CARDS / f"{name}.md"
    assert file.is_file() and file.read_text(encoding="utf-8") == text, f"mcl-hf card --recipe {name} --out model_cards"
    check_card(text)
    for option in load_recipe(name, task=task):
        assert f"| `{option}` | `" in text
    assert "There are no weights of this recipe." in text and "model-index" not in text
    assert re.search(rf"^mcl-hf {task} --recipe {name} .*--output-dir {name}$", text, re.MULTILINE)


def test_there_is_one_card_a_recipe_and_the_template_that_is_used():
    names = {name for _, name in NAMES}
    assert len(names) == len(NAMES), "two tasks have a recipe of the same name"
    assert {path.stem for path in CARDS.glob("*.md")} == {*names, "template"}
    used = ROOT / "mcl_hf" / "hub" / TEMPLATE
    assert (CARDS / "template.md").read_text(encoding="utf-8") == used.read_text(encoding="utf-8"), f"copy {used} there"


def test_numbers_of_the_paper_are_called_the_papers():
    for _, name in NAMES:
        evaluation = recipe_card(name).split("## Evaluation\n")[1].split("\n## ")[0]
        assert evaluation.startswith("\nNone: there is nothing to measure.")
        assert ("42.5" in evaluation) == ("The paper's numbers, of its own code and weights" in evaluation)
    with pytest.raises(InputError, match="did you mean 'demo'"):
        recipe_card("dem0")
