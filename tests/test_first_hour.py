"""The notebook of the first hour runs as it stands, with the plan beside it made small."""

import json
import os
import re
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SMALL = {
    "images": "[4]", "seeds": "1", "primary": "[[mcl, random, 4]]", "visits": "32", "steps": "2", "batch_size": "16",
    "precise_bn_steps": "2",
}  # fmt: skip


@pytest.mark.slow
def test_notebook_ends_in_an_answer(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    plan = (EXAMPLES / "first_hour.yaml").read_text(encoding="utf-8")
    for name, value in SMALL.items():  # the first batch_size is pre-training's
        plan, changed = re.subn(rf"^( *{name}:).*$", rf"\1 {value}", plan, count=1, flags=re.MULTILINE)
        assert changed, name
    (tmp_path / "first_hour.yaml").write_text(plan, encoding="utf-8")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    notebook = nbformat.read(EXAMPLES / "first_hour.ipynb", as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=800, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    codes = [cell for cell in notebook.cells if cell.cell_type == "code"]
    said = ["".join(output.get("text", "") for output in cell.outputs) for cell in codes]
    assert not any("mcl-hf: error" in text for text in said), said
    report = (tmp_path / "first-hour" / "report.md").read_text(encoding="utf-8")
    assert "4 labelled images" in report and "1 seed from 0" in report
    assert report.splitlines()[2] in codes[-2].outputs[0].data["text/markdown"]
    assert "image/png" in codes[-1].outputs[0].data


def test_notebook_was_run_and_met_no_error():
    cells = json.loads((EXAMPLES / "first_hour.ipynb").read_text(encoding="utf-8"))["cells"]
    shown = [cell["outputs"] for cell in cells if cell["cell_type"] == "code"]
    assert all(shown) and not re.search("mcl-hf: error|Traceback", json.dumps(shown))
