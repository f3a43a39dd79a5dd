"""A damaged file that a card reads is one line that names it; a hostile text in one is a text in the card."""

import copy
import json
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mcl_hf.cli import main
from mcl_hf.engine.state import RECORD
from mcl_hf.errors import InputError
from mcl_hf.hub.card import render_card
from tests.hub.test_card import MACHINE, make_detector

STARTED = {"kind": "folder", "name": "r", "run": {"task": "pre-training", "objective": "contrastive", "steps": 9,
           "images_seen": 18, "data": ["x"], "start": {"kind": "hub", "name": "a/b"}}}  # fmt: skip
IMPORTED = {"file": "v2.pth", "sha256": "ab12", "layout": "MoCo", "remarks": ["left out: 2 tensors"],
            "parts": {"backbone": [9, 9], "FPN": [0, 4]}, "mcl_hf": "0.1.0"}  # fmt: skip
PROBED = {"images": 8, "chance": 0.2, "features": {"region_head": {"knn": {"all": 0.5}, "same_level": 0.1}}}


def places(content: Any, before: tuple = ()) -> Iterator[tuple]:
    """Paths of all entries, the content itself first."""
    yield before
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for name, entry in entries:
        yield from places(entry, (*before, name))


@pytest.fixture
def folder(run: Path, tmp_path: Path) -> Path:
    """What a card reads of a run, and as much in its record as there can be."""
    copied = tmp_path / "tiny"
    copied.mkdir()
    for name in ("config.json", "log.jsonl", RECORD):
        shutil.copyfile(run / name, copied / name)
    state = json.loads((copied / RECORD).read_text())
    state |= {"machines": [MACHINE, {**MACHINE, "kind": "cuda", "from_step": 2}], "start": STARTED}
    (copied / RECORD).write_text(json.dumps(state))
    return copied


RESULTS = [
{"run": "det", "step": 4, "seed": 3, "backend": "faster-coco-eval", "images": 8, "box": {"AP": 0.25}},
    {"checkpoint": "det", "data": "coco", "given": "a/b", "split": "val", "images": 8, "objects": 9,
 "box": {"AP": 0.25, "AP50": None}, "mask": {"AP": 0.2}, "voc": {"AP50": 0.3}, "max_images": 3},
    {"predictions": "a/results.json", "data": "coco", "box": {"AP": math.nan}},
[{"network": "tiny", "objects": PROBED, "views": None}, {"network": "random", "views": PROBED}],
    {"starts": {"tiny": None}, "inits": {"tiny": "tiny"}, "counts": {"25": 25}, "unit": "labelled images",
 "data": {"test": {"images": 8, "objects": 9, "fingerprint": "f"}}, "finetune": "a detector", "warnings": ["not fair"],
 "failed": {"job": "why"}, "answer": {"sentence": "tiny won", "means": [
     {"start": "tiny", "images": "25", "figure": "box/AP", "mean": 20.0, "sd": 1.0, "seeds": [0, 1]}]}},
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (RECORD, "[]"),
        (RECORD, '{"step": "x"}'),
        (RECORD, '{"step": 3, "max_steps": 3, "machines": [{}]}'),
        ("log.jsonl", '{"step":' * 100_000 + "\n{}\n"),
        ("log.jsonl", '{"step": "x"}\n{"step": 3, "loss": 1}\n'),
        ("imported_from.json", '{"file": 3}'),
        ("metrics.json", '{"box": 3}'),
        ("comparison.json", '{"answer": {"sentence": "x"}, "starts": ["a"], "data": {}, "counts": 3}'),
        ("probe.json", '[{"network": "x", "objects": {"chance": 0.5}}]'),
    ],
)
def test_a_damaged_record_is_one_line(folder, name, content):
    (folder / name).write_text(content)
    with pytest.raises(InputError, match=r"is damaged|is no record|cannot be read") as caught:
        render_card(folder)
    assert "\n" not in str(caught.value) and (name in str(caught.value) or str(folder) in str(caught.value))


def test_another_programs_file_of_such_a_name_counts_where_it_is_named(folder):
    card = render_card(folder)
    (folder / "metrics.json").write_text('{"loss": 0.5}')
    assert render_card(folder) == card
    with pytest.raises(InputError, match=r"metrics\.json is no result of mcl-hf"):
        render_card(folder, evaluations=[folder / "metrics.json"])


@pytest.mark.parametrize("command", [["card"], ["push", "--dry-run"]])
def test_the_commands_end_with_one_line_and_code_2(folder, command, capsys):
    state = json.loads((folder / RECORD).read_text())
    (folder / RECORD).write_text(json.dumps(state | {"machines": {}}))
    assert main([command[0], str(folder), *(["user/name"] if command[0] == "push" else []), *command[1:]]) == 2
    error = capsys.readouterr().err
    assert error == f"mcl-hf: error: {folder / RECORD} is damaged: machines must be a list, got {{}}\n"


HOSTILE = (
    "x<img src=q onerror=a()>\n# Owned\n```\n# Owned\n[a](javascript:b)|`c`|https://evil.example \x1b]0;t\x07\u202e"
)


def told_raw(card: str) -> list[str]:
    """Lines of a card in which a hostile text is more than a text."""
    prose = re.sub(r"^(`{3,})\w*\n.*?^\1$", "", card.partition("\n---\n")[2], flags=re.MULTILINE | re.DOTALL)
    prose = re.sub(r"\\\\|\\[!-/:-@\[-`{-~]", "", prose)  # what is escaped
    prose = re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", prose)  # code spans
    signs = re.compile(r"<img|^# Owned|\]\(javascript|^```|https://evil|[^\n\x20-\U0010ffff]|[\x7f-\x9f\u202e]")
    return [line for line in prose.splitlines() if signs.search(line)]


def holds_texts(folder: Path, file: Path, content: Any, lines: bool = False, **options: Any) -> None:
    """Make each text, number and name of a file hostile in turn."""
    whole = file.read_text() if file.exists() else ""
    rendered = 0
    for what, hostile in poisoned(content):
        file.write_text("\n".join(map(json.dumps, hostile)) if lines else json.dumps(hostile), encoding="utf-8")
        try:
            card = render_card(folder, **options)
        except InputError:
            continue
        rendered += 1
        assert told_raw(card) == [], (file.name, what)
    assert rendered > 0
    file.write_text(whole)


def test_a_hostile_text_of_a_run_is_a_text_in_the_card(folder, tmp_path):
    for place in (folder, make_detector(tmp_path / "det")):
        for name in (RECORD, "config.json"):
            holds_texts(place, place / name, json.loads((place / name).read_text()))
        log = [json.loads(line) for line in (place / "log.jsonl").read_text().splitlines()][-2:]
        log[-1] |= {"health": ["collapse: all alike"], "probe/knn": 0.5}
        holds_texts(place, place / "log.jsonl", log, lines=True)


def test_a_hostile_text_of_an_import_is_a_text_in_the_card(folder):
    (folder / RECORD).unlink()
    holds_texts(folder, folder / "imported_from.json", IMPORTED)


@pytest.mark.parametrize("content", RESULTS)
def test_a_hostile_text_of_a_result_is_a_text_in_the_card(folder, tmp_path, content):
    holds_texts(folder, tmp_path / "result.json", content, evaluations=[tmp_path / "result.json"])


def poisoned(content: Any) -> Iterator[tuple[tuple, Any]]:
    """The content with one text, number, absence or name made hostile."""
    for path in places(content):
        whole = copy.deepcopy(content)
        inner = whole
        for name in path[:-1]:
            inner = inner[name]
        if path and not isinstance(inner[path[-1]], dict | list):
            inner[path[-1]] = HOSTILE
            yield path, whole
        if path and isinstance(inner, dict):
            renamed = copy.deepcopy(whole)
            yield (*path, "name"), _renamed(renamed, path)


def _renamed(content: Any, path: tuple) -> Any:
    inner = content
    for name in path[:-1]:
        inner = inner[name]
    inner[HOSTILE] = inner.pop(path[-1])
    return content
