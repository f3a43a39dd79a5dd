"""How a model was trained, as far as it takes more than words: start, licence, machine, numbers at the end.

Where it sits: card_data -> **training** -> `card_rows.md`, `card_template.md`, whose words are the rest. A row whose
number was not recorded says so.
"""

import statistics
from typing import Any

from ..engine.hub_resume import fetched
from ..engine.state import TrainingState
from ..viz import summarise
from .card_data import Recorded
from .markdown import ABSENT, code, count, facts, is_number, join, number, percent, plain

Rows = list[tuple[str, str]]
_IN_THE_TABLE = {"steps", "loss", "time", "images/s", "broken images", "data wait", "health"}


def start_text(state: TrainingState) -> str:
    """What the weights started from, with what is known of that."""
    start = state.start or {}
    kind = start.get("kind")
    if kind is None:
        told = state.arguments.get("init")
        last = str(told).rstrip("/").rpartition("/")[2]
        return "random weights" if told in (None, "random") else f"{code(last)} (not recorded what that is)"
    if kind == "random":
        return "random weights"
    name = code(start["name"]) if start.get("name") else f"one whose name is {ABSENT}"
    if kind in ("timm", "torchvision"):
        return f"{kind}'s {name}"
    if kind == "hub":
        return f"{name} of the Hub"
    run = start.get("run")
    if run is None:
        return f"the folder {name}, of which no run is recorded"
    names = [plain(name) for name in run.get("data") or []]
    before = run.get("start") or {}
    first = {"random": ", from random weights", None: ""}.get(before.get("kind"), f", from {code(before.get('name'))}")
    return (
        f"the run {name}: {plain(run['task'])}, {plain(run.get('objective') or 'detector')}, "
        f"{number(run['steps'])} steps on {join(names) or 'data not recorded'}{first}"
    )


def licence_text(state: TrainingState | None, given: str | None) -> str:
    """The licence as given, or as recorded for each source."""
    if given:
        return plain(given)
    found = (state.data.get("sources") if state is not None else None) or []
    known = [s for s in found if s.get("licence")]
    if not known or len(known) < len(found):
        missing = "" if not known else f" of {join([plain(s['name']) for s in found if not s.get('licence')])}"
        told = "".join(f"{plain(s['licence'])} ({plain(s['name'])}); " for s in known)
        return f"{told}licence{missing} not recorded"
    if len(known) == 1:
        return plain(known[0]["licence"])
    return "; ".join(f"{plain(s['licence'])} ({plain(s['name'])})" for s in known)


def last_numbers(recorded: Recorded) -> str:
    """Loss, cosines, spread of the embeddings and the rest of the health numbers in the log's last record."""
    if not recorded.log:
        return "No log was found, so no loss or health number of the run is known."
    first, last = recorded.log[0], recorded.log[-1]
    rows: Rows = [("loss", f"{_loss(first)} at step {number(first['step'])}, {_loss(last)} at step "
                           f"{number(last['step'])}")]  # fmt: skip
    hidden = tuple(name for name in summarise([last]) if name.startswith("probe") or name.endswith(("AP", "AP50")))
    for name, value in summarise([last]).items():
        if name not in (*_IN_THE_TABLE, *hidden):
            rows.append((plain(name), " ".join(ABSENT if part == "-" else part for part in value.split(" "))))
    if "grad_norm" in last:
        rows.append(("gradient norm before clipping", number(last["grad_norm"])))
    return facts(rows)


def log_gap(recorded: Recorded) -> list[str]:
    """That the log begins late, where the run went on from elsewhere and the lines before did not come along."""
    if not recorded.log or recorded.state is None:
        return []
    first, source = recorded.log[0]["step"], fetched(recorded.run_folder)
    if source is not None and first > source[1]:
        name, step = source
        told = f"the run went on from step {number(step)} of {code(name)}"
    elif first > recorded.arguments.get("log_every_steps", first):
        told = "where the run went on from an earlier checkpoint, the log before that did not come along"
    else:
        return []
    return [f"The log begins at step {number(first)}: {told}. Curves and numbers of the steps before are not here."]


def health_lines(recorded: Recorded) -> list[str]:
    """Warnings that the run gave about itself, and losses that were not finite."""
    lines = [
        f"Warning of the run at step {number(line['step'])}: {plain(text)}"
        for line in recorded.log
        for text in line.get("health", [])
    ]
    lost = [line["step"] for line in recorded.log if "loss" in line and not is_number(line["loss"])]
    if lost:
        lines.append(f"The loss was not finite at {len(lost)} logged steps, the first of them {number(lost[0])}.")
    return lines


def _loss(line: dict[str, Any]) -> str:
    return f"{line['loss']:.4f}" if is_number(line.get("loss")) else "not finite"


def pace_rows(recorded: Recorded) -> Rows:
    """Speed and memory, as the log has them."""
    peaks = [line["peak_memory_gib"] for line in recorded.log if is_number(line.get("peak_memory_gib"))]
    speeds = [line["images_per_second"] for line in recorded.log if is_number(line.get("images_per_second"))]
    return [
        ("speed", f"{statistics.median(speeds):.1f} images/s, median" if speeds else ABSENT),
        ("peak memory of the main process", f"{max(peaks):.2f} GiB" if peaks else ABSENT),
    ]


def hardware(state: TrainingState) -> list[str]:
    """A text for each machine that the run was on."""
    found = []
    for place in state.machines:
        since = f"from step {number(place['from_step'])}: " if place["from_step"] else ""
        cpu = f"{plain(place['cpu'])}, {count(place['cores'], 'core')}"
        device = cpu if place["kind"] == "cpu" else f"{plain(place['device'])} for each process; {cpu}"
        found.append(f"{since}{device}")
    if found and state.machines[0]["from_step"]:
        found.insert(0, f"up to step {number(state.machines[0]['from_step'])}: {ABSENT}")
    return found or [ABSENT]


def software(state: TrainingState) -> str:
    last = state.machines[-1] if state.machines else {"packages": {}}
    packages = {**state.versions, **last["packages"]}
    python = {"Python": last["python"]} if "python" in last else {}
    return ", ".join(plain(f"{name} {release}") for name, release in {**python, **packages}.items()) or ABSENT


def imported_parts(recorded: Recorded, came: bool = True) -> list[str]:
    """Parts of an imported model that came of the file, or that did not and are random."""
    parts = (recorded.imported or {}).get("parts", {})
    return [plain(name) for name, (loaded, _) in parts.items() if bool(loaded) == came]


def probes_of_the_run(recorded: Recorded) -> dict[str, Any]:
    """The last probe that the run made of itself; empty without one."""
    titles = {
        "probe/knn": "kNN classes",
        "probe/linear": "linear classes",
        "probe/same_level": "an image found again, same level",
        "probe/other_level": "an image found again, other level",
        "probe/chance": "chance",
    }
    lines = [line for line in recorded.log if any(name.startswith("probe/") for name in line)]
    if not lines:
        return {}
    rows = [(title, percent(lines[-1][name])) for name, title in titles.items() if name in lines[-1]]
    return {"step": lines[-1]["step"], "rows": rows}


def probed_classes(recorded: Recorded) -> bool:
    """Whether the run asked its features for classes."""
    return any("probe/knn" in line for line in recorded.log)
