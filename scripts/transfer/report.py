"""Tables and plots of whatever results are there; what is missing is marked.

Flow: results/*.json -> detector_tables, learning_tables, plots -> **report** -> OUT/tables.md, *.png. Nothing is run
here, and no data is needed.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from .arms import ARMS, find_arm
from .detector_tables import claim_table, detector_table, difference_table, main_detection
from .figures import Results, as_table, is_of, mean_cell, probe_scores, scores
from .jobs import Bench, Job, all_results, read_result
from .learning_tables import cost_table, level_table, pretraining_table, probe_table, search_table
from .runner import estimated_hours

CAVEAT = (
    "These are composed scenes: real cut-outs pasted on real backgrounds, not photographs of scenes. The numbers "
    "compare arms with each other under equal conditions and never stand beside AP on COCO or other photographed data."
)
PICTURES = {
    "compute.png": "Figures of every arm against the operations of its pre-training",
    "differences.png": "Paired differences of box AP with their intervals",
    "across_levels.png": "Classes found by nearest neighbours, by the levels of query and bank",
    "predictions.png": "What detectors from each start find in scenes of test objects",
    "similarity.png": "Where each start finds a region again, at three scales",
}
SMOKE = "**This is the smoke scale: networks of a few thousand weights and seconds of training. It claims nothing.**"


def listing(bench: Bench, jobs: Sequence[Job]) -> list[str]:
    """Lines about what is done, what is open, and how long it will take."""
    results = {job.name: result for job in jobs if (result := read_result(bench, job)) is not None}
    lines, total, unknown = [], 0.0, 0
    for job in jobs:
        if job.name in results:
            lines.append(f"done  {results[job.name]['seconds'] / 3600:6.2f} h  {job.name}")
            continue
        hours = estimated_hours(bench, job, results)
        total, unknown = total + (hours or 0.0), unknown + (hours is None)
        lines.append(f"open  {'     ?' if hours is None else f'{hours:6.2f}'} h  {job.name}")
    rest = f"; {unknown} of a kind that has not been run yet" if unknown else ""
    return [*lines, f"{len(results)} of {len(jobs)} done; about {total:.1f} hours of one process left{rest}"]


def write(bench: Bench, jobs: Sequence[Job]) -> list[Path]:
    """Write tables and plots; paths of what was written."""
    results, arms = _found(bench, jobs)
    bench.out.mkdir(parents=True, exist_ok=True)
    written = []
    if find_spec("matplotlib") is not None and results:
        from .plots import draw_all

        written = draw_all(bench, arms, results)
    page = bench.out / "tables.md"
    page.write_text(tables(bench, jobs), encoding="utf-8")
    return [page, *written]


def tables(bench: Bench, jobs: Sequence[Job]) -> str:
    """All tables as one Markdown page, with the pictures that lie beside it."""
    results, arms = _found(bench, jobs)
    lines = [f"# Transfer benchmark, scale {bench.scale.name}", "", CAVEAT, ""]
    lines += [SMOKE, ""] if bench.scale.name == "smoke" else []
    lines += _state(jobs, results)
    for name, table in (
        ("Summary", summary(bench, arms, results)),
        ("Detectors", detector_table(bench, arms, results)),
        ("Claims", claim_table(bench, results)),
        ("Differences", difference_table(bench, arms, results)),
        ("Probes", probe_table(arms, results)),
        ("Across levels", level_table(arms, results)),
        ("Pre-training", pretraining_table(arms, results)),
        ("Search", search_table(sorted((bench.out / "tuning").glob("*.json")))),
        ("Cost of a step", cost_table(results)),
    ):
        lines += [f"## {name}", "", *table, ""]
    pictures = [name for name in PICTURES if (bench.out / name).exists()]
    lines += [line for name in pictures for line in (f"![{PICTURES[name]}]({name})", "")]
    return "\n".join(lines)


def summary(bench: Bench, arms: Sequence[str], results: Results) -> list[str]:
    """What was spent, what region features know, and what a detector makes of it, a line an arm."""
    detection = main_detection(bench)
    rows = []
    for name in arms:
        spent = [r["gflop"] / 1e3 for r in results if is_of(r, "pretrain", find_arm(name).source)]
        classes = [
            mean_cell(probe_scores(results, name, feature, "linear", "all")) for feature in ("c5", "region_head")
        ]
        found = [mean_cell(scores(results, name, detection, "box", key), 2) for key in ("AP", "AP50", "agnostic")]
        rows.append([find_arm(name).title, f"{sum(spent) / len(spent):,.0f}" if spent else "0", *classes, *found])
    chance = [r["chance"] for r in results if r["job"]["kind"] == "probe"]
    header = ["start", "TFLOP", "classes from C5", "from region features", "box AP", "AP50", "AP, one class"]
    words = [
        "Per cent: mean ± standard deviation over folds (runs). Classes: linear probe, test objects; the commonest "
        f"class has {100 * sum(chance) / max(1, len(chance)):.1f}. AP: `{detection}`.",
        "",
    ]
    return [*words, *as_table(header, rows)]


def _found(bench: Bench, jobs: Sequence[Job]) -> tuple[Results, list[str]]:
    """Results but for the search's, and the arms that were planned or have some."""
    results = [result for result in all_results(bench) if result["job"]["trial"] is None]
    planned = {job.arm for job in jobs if job.kind == "probe"}
    arms = [name for name in ARMS if name in planned or any(is_of(r, "probe", name) for r in results)]
    return results, arms


def _state(jobs: Sequence[Job], results: Results) -> list[str]:
    names = {Job(**result["job"]).name for result in results}
    missing = [job.name for job in jobs if job.name not in names]
    machines = sorted({f"{r['machine']['gpu'] or r['machine']['processor']}" for r in results})
    lines = [
        f"{len(jobs) - len(missing)} of {len(jobs)} jobs are done{', on ' + ', '.join(machines) if machines else ''}."
    ]
    dirty = sum(result["commit"] is None for result in results)
    if dirty:
        lines.append(f"{dirty} results are of a state of the code that was not committed.")
    if missing:
        shown = ", ".join(missing[:6]) + (f" and {len(missing) - 6} more" if len(missing) > 6 else "")
        lines.append(f"Missing: {shown}.")
    return [" ".join(lines), ""]
