"""Evaluations as the card shows them: figures with protocol, seeds and command, comparisons of starts, probes.

Where it sits: results -> **evaluation_text** -> card. What is absent is said to be absent.
"""

from typing import Any

from mcl_hf.hub.command_line import run_command
from mcl_hf.hub.markdown import (
    ABSENT,
    NOT_MEASURED,
    bullets,
    code,
    facts,
    fenced,
    is_number,
    join,
    number,
    percent,
    plain,
    table,
)
from mcl_hf.hub.measured import FIGURES, ComparisonResult, DetectionResult, ProbeResults, Results
from mcl_hf.hub.recorded import Recorded
from mcl_hf.hub.training_rows import protocol_rows
from mcl_hf.probe.region_features import FEATURES
from mcl_hf.probe.report import TITLES

_PROBED = {
    "objects": {"knn": "kNN", "linear": "linear"},
    "views": {"same_level": "found, same level", "other_level": "found, other level"},
}
_ASKED = {"objects": "classes of annotated objects", "views": "the same image found again"}
_RELATION = {"own": "", "from_it": ", fine-tuned from this model", "other": " (another model)"}


def evaluation_text(recorded: Recorded, results: Results) -> str:
    """The whole section."""
    parts = []
    if results.detections:
        parts.append(_detections(recorded, results.detections))
    parts += [_comparison(found) for found in results.comparisons]
    parts += [_probe(found) for found in results.probes]
    during = _probes_of_the_run(recorded)
    parts += [during] if during else []
    if not parts:
        what = (
            "Its AP was not measured." if recorded.detector else "How well it transfers to detection was not measured."
        )
        parts.append(f"None. {what}")
    elif recorded.detector is None and not results.detections and not results.comparisons:
        parts.append("How well it transfers to detection was not measured.")
    return "\n\n".join(parts)


def _detections(recorded: Recorded, found: list[DetectionResult]) -> str:
    kinds = [k for k in ("box", "mask") if any(f"{k} AP" in result.figures for result in found)]
    names = [f"{kind} {figure}" for kind in kinds for figure in FIGURES]
    names += ["VOC AP50"] if any("VOC AP50" in result.figures for result in found) else []
    rows = []
    for result in found:
        cells = [percent(result.figures.get(name)) for name in names]
        rows.append([f"{code(result.model)}{_RELATION[result.relation]}", _data(result), *cells, _seeds(result)])
    parts = ["### Detection", "AP in percent.", table(["model", "data", *names, "seeds"], rows, texts=2)]
    told: set[str] = set()
    for result in found:
        parts.append(_protocol(recorded, result, told))
    return "\n\n".join(parts)


def _protocol(recorded: Recorded, result: DetectionResult, told: set[str]) -> str:
    """How one row came about; the protocol of a model in `told`, which grows, is not repeated."""
    counted = f" AP by {plain(result.counted_by)}." if result.counted_by else ""
    if result.run is recorded and result.command == run_command(recorded):
        return f"{code(result.model)}: measured by the run itself, protocol and command above.{counted}"
    lines = []
    if result.relation == "own" and recorded.state is not None:
        lines.append(f"Protocol of {code(result.model)}: the table under Training.")
    elif result.model in told:
        lines.append(f"Protocol of {code(result.model)}: as above.")
    elif result.run is not None:
        lines.append(f"Protocol of {code(result.model)}:\n\n{facts(protocol_rows(result.run))}")
    else:
        lines.append(f"Protocol of {code(result.model)}: {ABSENT}.")
    told.add(result.model)
    if result.share is not None and is_number(result.share) and result.share < 1:
        lines.append(f"Trained on {100 * result.share:g} % of the labelled images.")
    if result.command is not None:
        lines.append(f"Measured by the command below.{counted}\n\n{fenced(result.command, 'sh')}")
    else:
        lines.append(f"The command that measured it: {ABSENT}.{counted}")
    return "\n\n".join(lines)


def _comparison(found: ComparisonResult) -> str:
    names = [
        name for name in ("box AP", "box AP50", "mask AP", "mask AP50") if any(name in r.figures for r in found.rows)
    ]
    rows = []
    for row in found.rows:
        told = f"{code(row.model)}{' (this model)' if row.relation == 'from_it' else ''}"
        rows.append([plain(row.labelled), told, *(_spread(row, name) for name in names), _seeds(row)])
    data = "; ".join(
        f"{plain(use)}: {number(part['images'])} images, {number(part['objects'])} objects, digest of the annotations "
        f"{code(part['fingerprint'])}"
        for use, part in found.data.items()
    )
    parts = [
        "### Comparison of starts",
        plain(found.sentence),
        f"Percent on the test images, mean ± standard deviation over seeds. {data}.",
        table(["labels", "start", *names, "seeds"], rows, texts=2),
    ]
    lines = [f"Beware: {plain(warning)}." for warning in found.warnings]
    lines += [f"Failed, and missing above: {plain(job)}." for job in found.failed]
    parts += [bullets(lines)] if lines else []
    parts += [f"Detectors, the same for all starts: {plain(found.protocol)}."] if found.protocol else []
    parts.append(fenced(found.command, "sh"))
    return "\n\n".join(parts)


def _probe(found: ProbeResults) -> str:
    """All features of all networks; shares in percent."""
    first = next(iter(found.networks.values()))
    kinds = [kind for kind in _PROBED if first[kind]]
    rows = [
        [f"{code(name)}{' (this model)' if name in found.own else ''}", TITLES[feature]]
        + [_share(numbers[kind], feature, key) for kind in kinds for key in _PROBED[kind]]
        for name, numbers in found.networks.items()
        for feature in FEATURES
    ]
    notes = [
        f"{_ASKED[kind]}: {number(first[kind]['images'])} images; chance is {percent(first[kind]['chance'])} %"
        for kind in kinds
    ]
    titles = ["network", "feature", *(title for kind in kinds for title in _PROBED[kind].values())]
    return "\n\n".join(
        [
            "### Probes of the region features",
            f"Shares in percent, one run each, by `mcl-hf probe`; {'; '.join(notes)}.",
            table(titles, rows, texts=2),
        ]
    )


def _share(measured: dict[str, Any] | None, feature: str, key: str) -> str:
    value = (measured or {}).get("features", {}).get(feature, {}).get(key)
    return percent(value.get("all") if isinstance(value, dict) else value)


def _probes_of_the_run(recorded: Recorded) -> str:
    """The last probe that the run made of itself."""
    lines = [line for line in recorded.log if any(name.startswith("probe/") for name in line)]
    if not lines:
        return ""
    last = lines[-1]
    titles = {
        "probe/knn": "kNN classes",
        "probe/linear": "linear classes",
        "probe/same_level": "an image found again, same level",
        "probe/other_level": "an image found again, other level",
        "probe/chance": "chance",
    }
    rows = [(title, percent(last[name])) for name, title in titles.items() if name in last]
    images = recorded.arguments.get("probe_images")
    what = "annotated images" if recorded.arguments.get("probe_data") else "images of the run's own data"
    return (
        f"### Probes during training\n\nAt step {number(last['step'])}, of the region head's features, with up to "
        f"{number(images)} {what}; percent, one run, one seed.\n\n{facts(rows)}"
    )


def _data(result: DetectionResult) -> str:
    told = plain(result.data) + (f", {plain(result.split)}" if result.split else "")
    images = f": {number(result.images)} images" if result.images is not None else ""
    return told + images + (f", {number(result.objects)} objects" if result.objects is not None else "")


def _seeds(result: DetectionResult) -> str:
    if not result.seeds:
        return ABSENT
    return f"{len(result.seeds)} ({join([str(seed) for seed in result.seeds])})"


def _spread(row: DetectionResult, name: str) -> str:
    value: Any = row.figures.get(name)
    if not is_number(value):
        return NOT_MEASURED
    return f"{100 * value:.1f}" + (f" ± {100 * row.sd[name]:.1f}" if name in row.sd else "")
