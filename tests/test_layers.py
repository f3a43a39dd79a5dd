"""The import direction between packages, which keeps every stage usable and testable without the ones after it.

`models`, `data` | `annotations`, `remote` | `viz` | `transfer` | `engine` | `pretraining` | `detectors` |
`evaluation` | `prediction`, `finetuning` | `comparison` | `probe` | `hub` | `callbacks` | `demo` | `cli`: a package
imports only from packages to its left, and so do the folders inside `data`. `models` and `data` do not know each
other, but for the one conversion of pictures, which travels with the models' code and serves the decoder of training
too. Inside the package all imports are relative.
"""

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mcl_hf"
COLUMNS = [
    {"recipes"},  # YAML files and their reader
    {"models", "data"},
    {"annotations", "remote"},
    {"viz"},
    {"transfer"},
    {"engine"},
    {"pretraining"},
    {"detectors"},
    {"evaluation"},
    {"prediction", "finetuning"},
    {"comparison"},
    {"probe"},
    {"hub"},
    {"callbacks"},
    {"demo"},
    {"cli"},
]
INNER = {"data": [{"sources"}, {"streams"}, {"packing"}]}
# Single files at the top of the package.
FREE = {"errors", "plain_text", "version", "startup", "hub_token", "retry", "new_folder", "files", "lazy", "yaml_text"}
FREE |= {"given"}
EXCEPTIONS = {("data", "mcl_hf.models.pixels")}  # package -> module that it may import nevertheless
HEAVY = ["datasets", "accelerate", "pycocotools", "matplotlib", "gradio"]


def imported_modules(path: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute name) of whatever a file imports, at any depth of the code, type-checking blocks included."""
    package = list(path.relative_to(ROOT).with_suffix("").parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = [*base, *(node.module.split(".") if node.module else [])]
            if module == ["mcl_hf"]:  # from mcl_hf import viz, or a name that the package exports
                yield from ((node.lineno, f"mcl_hf.{name.name}") for name in node.names)
            else:
                yield node.lineno, ".".join(module)


def column_of(package: str, columns: list[set[str]] = COLUMNS) -> int | None:
    return next((index for index, column in enumerate(columns) if package in column), None)


def violations(path: Path) -> list[str]:
    parts = path.relative_to(PACKAGE).parts
    if len(parts) == 1:
        return []  # __init__.py and the free files are checked by what importing them pulls in
    own, found = parts[0], []
    own_column = column_of(own)
    assert own_column is not None, f"{own} is a new package: give it its place in COLUMNS"
    for line, module in imported_modules(path):
        if module.split(".")[0] != "mcl_hf":
            continue
        name = module.split(".")[1] if "." in module else ""
        if name in FREE or name == own or (own, module) in EXCEPTIONS:
            continue
        column = column_of(name)
        if column is None:
            found.append(f"{path.relative_to(ROOT)}:{line} imports {module}: import from the package that defines it")
        elif column >= own_column:
            found.append(f"{path.relative_to(ROOT)}:{line} imports {module}, which is not to the left of {own}")
    return found


def test_packages_import_leftwards_only():
    assert [line for path in sorted(PACKAGE.rglob("*.py")) for line in violations(path)] == []


@pytest.mark.parametrize("package", INNER)
def test_folders_inside_a_package_import_leftwards_only(package):
    wrong = []
    for path in sorted((PACKAGE / package).rglob("*.py")):
        parts = path.relative_to(PACKAGE / package).parts
        own = column_of(parts[0], INNER[package])
        for line, module in imported_modules(path) if own is not None else ():
            names = module.split(".")
            other = column_of(names[2], INNER[package]) if names[:2] == ["mcl_hf", package] and len(names) > 2 else None
            if names[2:3] != [parts[0]] and other is not None and other >= own:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {module}")
    assert wrong == []


def test_imports_inside_the_package_are_relative():
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and not node.level:
                assert (node.module or "").split(".")[0] != "mcl_hf", f"{path.relative_to(ROOT)}:{node.lineno}"


def test_models_knows_no_network():
    for path in (PACKAGE / "models").rglob("*.py"):
        names = {
            module.split(".")[0] for _, module in imported_modules(path) if module != "huggingface_hub.dataclasses"
        }
        assert not names & {"huggingface_hub", "httpx", "requests", "urllib"}, path.name


def test_models_is_a_flat_folder_that_stands_alone():
    """A published checkpoint can carry this folder as its code: transformers follows `from .name import ...` only."""
    files = sorted((PACKAGE / "models").rglob("*.py"))
    assert files and all(path.parent == PACKAGE / "models" for path in files)
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                where = f"{path.name}:{node.lineno}"
                assert (node.module or "").split(".")[0] != "mcl_hf", f"{where} imports mcl_hf by name"
                if node.level:
                    assert node.level == 1 and node.module and "." not in node.module, f"{where}: only from .name"
            elif isinstance(node, ast.Import):
                assert all(name.name.split(".")[0] != "mcl_hf" for name in node.names), f"{path.name}:{node.lineno}"


@pytest.mark.parametrize(
    ("own", "source", "wrong"),
    [
        ("models", "from mcl_hf.errors import InputError", 0),
        ("models", "from mcl_hf.data import open_source", 1),
        ("data", "from mcl_hf.models.pixels import to_pixels", 0),
        ("data", "def f():\n    from ..models.montage import draw_montages", 1),
        ("viz", "from ..models.montage import draw_montages\nimport mcl_hf.data", 0),
        ("transfer", "from mcl_hf import viz\nimport mcl_hf.pretraining.arguments", 1),
        ("engine", "from mcl_hf import MCLModel", 1),
        ("cli", "from mcl_hf.pretraining.arguments import PretrainArguments", 0),
    ],
)
def test_the_check_itself_finds_what_it_should(monkeypatch, tmp_path, own, source, wrong):
    folder = tmp_path / "mcl_hf" / own
    folder.mkdir(parents=True)
    (folder / "part.py").write_text(source)
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path / "mcl_hf")
    assert len(violations(folder / "part.py")) == wrong


def test_importing_the_package_stays_light():
    """transformers' own model base class already imports accelerate; beyond that nothing heavy may come."""
    code = (
        "import sys; from transformers import PreTrainedModel; before = set(sys.modules); import mcl_hf\n"
        f"print([name for name in {HEAVY} if name in set(sys.modules) - before])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
    for path in [PACKAGE / "__init__.py", *(PACKAGE / "models").glob("*.py")]:
        for line, module in imported_modules(path):
            assert module.split(".")[0] not in HEAVY, f"{path.relative_to(ROOT)}:{line} imports {module}"


def test_every_name_that_is_loaded_on_first_use_is_there():
    for package in (
        "",
        ".data",
        ".detection",
        ".comparison",
        ".models",
        ".probe",
        ".engine",
        ".training",
        ".pretraining",
        ".transfer",
        ".viz",
    ):
        module = importlib.import_module(f"mcl_hf{package}")
        assert [name for name in module._HOME if getattr(module, name) is None] == []
