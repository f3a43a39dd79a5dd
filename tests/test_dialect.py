"""One dialect: docstrings name files that are there, in one markup; messages of errors read alike."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mcl_hf"
FOREIGN = {"hf_api.py", "dynamic_module_utils.py", "mcl.py", "build_detector.py"}  # not ours
NAMES = ("FeaturePyramid",)  # what a message may begin with in a capital letter; so may abbreviations


def test_heads_of_files_name_what_is_there():
    """The `**name**` of a flow line is the file itself; a `file.py` in a docstring exists; code stands in single
    backticks."""
    sources = [*PACKAGE.rglob("*.py"), *(ROOT / "scripts").glob("*.py")]
    known = {path.name for path in [*sources, *(ROOT / "tests").rglob("*.py"), ROOT / "setup.py"]}
    wrong = []
    for path in sorted(sources):
        text = path.read_text(encoding="utf-8")
        head = ast.get_docstring(ast.parse(text)) or ""
        flow = [name for line in head.splitlines() if "->" in line for name in re.findall(r"\*\*(\w+)\*\*", line)]
        named = set(re.findall(r"`(\w+\.py)`", head)) - FOREIGN
        wrong += [f"{path.relative_to(ROOT)}: **{name}**" for name in flow if name != path.stem]
        wrong += [f"{path.relative_to(ROOT)}: {name}" for name in named - known]
        wrong += [f"{path.relative_to(ROOT)}: double backticks"] if re.search(r"(?<!`)``(?!`)", text) else []
    assert wrong == []


def messages(path: Path) -> Iterator[tuple[int, str, str]]:
    """(line, first part, last part) of the text of every error that a file makes; `{}` for what is filled in."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        text = node.args[0]
        parts = text.values if isinstance(text, ast.JoinedStr) else [text]
        said = [part.value if isinstance(part, ast.Constant) else "{}" for part in parts]
        if (name.endswith("Error") or name == "BrokenImage") and isinstance(said[0], str) and said[0]:
            yield node.lineno, said[0], str(said[-1])


def test_messages_start_in_lower_case_and_end_without_a_full_stop():
    found = [(path, *message) for path in sorted(PACKAGE.rglob("*.py")) for message in messages(path)]
    wrong = [
        f"{path.relative_to(ROOT)}:{line} {first[:40]} ... {last[-40:]}"
        for path, line, first, last in found
        if (re.match(r"[A-Z][a-z]", first) and not first.startswith(NAMES)) or re.search(r"[^.]\.$", last)
    ]
    assert len(found) > 400 and wrong == []
