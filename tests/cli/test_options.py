"""Flags made from a dataclass: names, kinds, defaults, and what counts as given."""

from pathlib import Path
from typing import Any, Literal

import pytest

from mcl_hf.cli import main
from mcl_hf.cli.command import Parser
from mcl_hf.cli.evaluate import EvaluateOptions
from mcl_hf.cli.options import ARGUMENTS, add_flags, given_flags
from mcl_hf.cli.pack import PackOptions
from mcl_hf.cli.predict import PredictOptions
from mcl_hf.cli.pretrain import build_parser, read_arguments
from mcl_hf.cli.probe import ProbeOptions
from mcl_hf.comparison.plan import ComparePlan
from mcl_hf.engine.options import Options, _as_written, group, is_whole, options_class
from mcl_hf.errors import InputError
from mcl_hf.finetuning.arguments import FinetuneArguments
from mcl_hf.pretraining.arguments import PretrainArguments, load_arguments

of_work, of_speed = group("work"), group("speed")


@options_class
class Arguments(Options):
    folder: str | None = of_work(None, "where to")
    pictures: str | None = of_work(None, "where from", "picture_root")
    images_per_step: int = of_work(64, "images, 100 % of them")
    mode: Literal["lean", "published"] = of_work("lean", "of working")
    fast: bool = of_speed(True, "faster")
    ratios: list[int] | None = of_speed(None, "of levels")
    extra: dict[str, Any] | None = of_speed(None, "more")


def parse(*argv: str) -> dict[str, Any]:
    parser = Parser(prog="test")
    add_flags(parser, Arguments)
    return given_flags(parser.parse_args(argv), Arguments)


def test_only_what_was_given_is_returned():
    assert parse() == {}
    assert parse("--images-per-step", "8", "--no-fast") == {"images_per_step": "8", "fast": False}


@pytest.mark.parametrize("words", [["1", "2", "1/4"], ["1,2,1/4"], ["1,", "2,", "1/4"]])
def test_lists_are_split_at_spaces_and_commas(words):
    assert parse("--ratios", *words) == {"ratios": ["1", "2", "1/4"]}


def test_a_list_may_be_given_in_parts():
    assert parse("--ratios", "1", "2", "--mode", "lean", "--ratios", "4,8") == {
        "ratios": ["1", "2", "4", "8"],
        "mode": "lean",
    }
    assert parse("--mode", "lean", "--mode", "published") == {"mode": "published"}  # the last, where there is one


@pytest.mark.parametrize(
    ("kind", "lists"),
    [
        (PretrainArguments, {"data", "data_files"}),
        (PackOptions, {"data_files"}),
        (ProbeOptions, {"networks", "data"}),
        (PredictOptions, {"images"}),
        (ComparePlan, {"unlabelled"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_names_of_files_may_hold_commas_and_spaces(kind, lists):
    parser = Parser(prog="test")
    add_flags(parser, kind)
    fields = kind.__pydantic_fields__
    assert {name for name, entry in fields.items() if is_whole(entry)} - {"data"} == lists - {"data"}
    for name in lists:
        written = ["my, own/{a,b}.tar", "other"]
        without_flag = [other for other, entry in fields.items() if entry.json_schema_extra["group"] == ARGUMENTS]
        words = [word for other in without_flag for word in (written if other == name else ["x"])]
        words += [] if name in without_flag else [f"--{name.replace('_', '-')}", *written]
        given = given_flags(parser.parse_args(words), kind)
        assert given[name] == written
        assert _as_written(written[0], fields[name]) == [written[0]]  # of a YAML file


@pytest.mark.parametrize("command", [["pretrain", "--recipe", "demo", "--output-dir", "run", "--data"],
    ["finetune", "--data", "bccd-mini", "--output-dir", "run", "--init"], ["evaluate", "run", "--data"],
    ["predict", "run"], ["probe"], ["compare", "--starts", "a,b", "--data"], ["pack"], ["card", "run", "--out"],
    ["show", "run"]], ids=" ".join)  # fmt: skip
def test_an_empty_text_is_not_the_current_folder_nor_a_random_start(command, tmp_path, monkeypatch, capsys):
    """As a shell gives it in place of a variable that is not set."""
    monkeypatch.chdir(tmp_path)
    assert main([*command, "", *(["out"] if command == ["pack"] else [])]) == 2
    assert " empty: " in (said := capsys.readouterr().err).replace("argument --out: is", "") and said.count("\n") == 1
    assert not [*tmp_path.iterdir()]


def test_a_tilde_is_the_home_folder_where_the_shell_leaves_it(tmp_path, monkeypatch):
    """As in `--out=~/a.png`, in a recipe or plan, and in a Python call: never a folder called ~."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "own.yaml").write_text("init: ~/my-run\ndata: [~/a=0.5, b=0.5]\n")
    for recipe in ("~/own.yaml", str(tmp_path / "own.yaml")):
        arguments = load_arguments(recipe, output_dir="~/run")
        assert arguments.data == [f"{tmp_path}/a=0.5", "b=0.5"] and arguments.init == f"{tmp_path}/my-run"
        assert arguments.output_dir == f"{tmp_path}/run"
    options = PredictOptions(detector="~", images=["~/a", "./~/b", "a~"], output_dir="~/out")
    assert (options.detector, options.output_dir) == (str(tmp_path), tmp_path / "out")
    assert options.images == [f"{tmp_path}/a", "./~/b", "a~"]
    parser = Parser(prog="test")
    parser.add_argument_group("places").add_argument("--out", type=Path)
    assert parser.parse_args(["--out=~/a.png"]).out == tmp_path / "a.png"


def test_a_flag_with_a_name_of_its_own_answers_to_the_fields_too():
    assert parse("--picture-root", "x") == parse("--pictures", "x") == {"pictures": "x"}


def test_folders_of_images_are_called_the_same_in_every_command():
    for kind in (FinetuneArguments, EvaluateOptions, ComparePlan):
        parser = Parser(prog="test")
        add_flags(parser, kind)
        assert "--image-root PATH" in (said := parser.format_help().replace("TEXT", "PATH")) and "folder of " in said


def test_mappings_are_json():
    assert parse("--extra", '{"rate": 0.1}') == {"extra": {"rate": 0.1}}
    for wrong in ("rate=0.1", "[1]", '{"rate": ' + "9" * 5000 + "}", '{"a":' * 100_000):
        with pytest.raises(InputError, match="JSON"):
            parse("--extra", wrong)


@pytest.mark.parametrize("argv", [["--mode", "fat"], ["--images"], ["--imag", "8"], ["stray"]])
def test_wrong_flags_raise_one_line(argv):
    with pytest.raises(InputError, match="see test --help") as caught:
        parse(*argv)
    assert "\n" not in str(caught.value)


def test_help_shows_texts_defaults_choices_and_groups(capsys):
    parser = Parser(prog="test")
    add_flags(parser, Arguments)
    text = " ".join(parser.format_help().split())
    assert "--images-per-step N images, 100 % of them (default: 64)" in text
    assert "{lean,published}" in text and "--fast, --no-fast" in text and "speed:" in text


def test_every_option_of_a_run_is_a_flag():
    names = list(PretrainArguments.__pydantic_fields__)
    parser = build_parser("test", "")
    flags = {flag for action in parser._actions for flag in action.option_strings}
    assert {f"--{name.replace('_', '-')}" for name in names} <= flags


def test_flags_override_the_recipe_with_their_own_types(tmp_path):
    recipe = tmp_path / "own.yaml"
    recipe.write_text("backbone: resnet18\nmax_steps: 7\ntemperature: 0.2\nchannels_last: true\n")
    words = ["--recipe", str(recipe), "--temperature", "1/2", "--epochs", "3", "--montage-fractions", "1,1/4,1/16,1/32"]
    arguments = read_arguments(build_parser("test", "").parse_args([*words, "--no-channels-last", "--seed", "5"]))
    assert arguments.backbone == "resnet18" and arguments.seed == 5
    assert (arguments.temperature, arguments.epochs, arguments.max_steps) == (0.5, 3.0, None)
    assert arguments.montage_fractions == [1, 1 / 4, 1 / 16, 1 / 32] and arguments.channels_last is False
