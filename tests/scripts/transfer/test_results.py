"""What is committed of the benchmark is one whole: tables follow from results, and the README from the tables."""

import re
from pathlib import Path

import pytest

from scripts.transfer.jobs import Bench, all_results, plan_jobs
from scripts.transfer.margins import margins_hash
from scripts.transfer.report import tables
from scripts.transfer.scales import CPU

ROOT = Path(__file__).resolve().parents[3]
OUT = ROOT / "evaluation" / "transfer" / "cpu"


@pytest.fixture(scope="module")
def bench():
    return Bench(CPU, CPU.visits, "", ROOT / "runs", OUT)


def test_tables_are_what_the_results_give(bench):
    jobs = plan_jobs(bench, CPU.arms, CPU.folds, CPU.seeds)
    again = "benchmark_transfer.py --scale cpu --report"
    assert (OUT / "tables.md").read_text(encoding="utf-8") == tables(bench, jobs), again


def test_results_are_of_equal_conditions_and_asked_after_the_margins_were_written(bench):
    results = [r for r in all_results(bench) if r["job"]["trial"] is None and r["job"]["kind"] != "cost"]
    conditions = {}
    for result in results:
        job = result["job"]
        if job["kind"] == "pretrain":
            fixed = {name: result["options"][name] for name in ("backbone", "batch_size", "precision", "optimizer")
                     if name in result["options"]}  # fmt: skip
            assert result["gflop"] == pytest.approx(results_of(results, "pretrain")[0]["gflop"], rel=0.01)
        else:
            fixed = {name: value for name, value in result["options"].items() if name != "seed"}
        assert conditions.setdefault((job["kind"], job["detection"]), fixed) == fixed, job
        if job["split"] == "test":
            assert result["margins"] == margins_hash(), job
    assert len(results) >= 6


def results_of(results, kind):
    return [result for result in results if result["job"]["kind"] == kind]


@pytest.mark.parametrize("shown", ["README.md", "model_cards/transfer-benchmark.md"])
def test_what_is_shown_is_what_was_found(shown):
    text = (ROOT / shown).read_text(encoding="utf-8")
    page = (OUT / "tables.md").read_text(encoding="utf-8")
    summary = re.search(r"## Summary\n\n(.*?)\n## ", page, re.DOTALL)
    rows = [line for line in summary[1].splitlines() if line.startswith("|")]
    assert len(rows) >= 5
    for row in rows:
        assert row in text, row
    claims = [line for line in text.splitlines() if line.startswith("| MCL −") and "not run" not in line]
    assert claims or shown == "README.md"
    assert all(line in page for line in claims)
    for picture in re.findall(r"\(((?:\.\./)?evaluation/[^)]*\.png)\)", text):
        assert (ROOT / shown).parent.joinpath(picture).is_file(), picture
