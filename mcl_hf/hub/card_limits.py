"""What a model is not: limits that follow from its record, and what was never run.

Where it sits: recorded, results -> **card_limits** -> card.
"""

from mcl_hf.hub.markdown import code, join, number, plain
from mcl_hf.hub.measured import Results
from mcl_hf.hub.recorded import Recorded
from mcl_hf.hub.training_rows import health_lines, licence_text, log_gap, start_text
from mcl_hf.training.state import TrainingState

_LEVELS = {1: "P5", 2: "P4", 4: "P3", 8: "P2"}
"""Montage ratio -> the level of the pyramid that its tiles are read from."""


def limitations(recorded: Recorded, data_licence: str | None, license: str | None) -> list[str]:
    """Sentences, each about something that the record shows.

    Args:
        recorded: the model.
        data_licence: of the data, as given.
        license: of the weights; None: none is claimed.
    """
    state, config = recorded.state, recorded.config
    lines = []
    claimed = (
        "No licence of the weights is claimed; whoever may give one does so by `--license` of `mcl-hf card` and "
        "`mcl-hf push`"
        if license is None
        else f"The weights are under {code(license)}"
    )
    if state is None:
        lines.append(f"{claimed}.")
        told = "What trained these weights, on what data and under what terms, is not recorded here."
        lines.append(told if recorded.imported is None else f"{told} Its authors' own card or paper says it.")
        lines += _of_the_import(recorded)
        lines += health_lines(recorded)
    else:
        lines.append(f"{claimed}; the data have terms of their own: {licence_text(state, data_licence)}.")
        lines += _of_the_start(state)
        lines.append("Biases of the data are likely those of the model; they were not examined.")
        lines.append(
            f"Trained once, with seed {number(recorded.arguments.get('seed'))}: how much another seed would differ is "
            "not known from that."
        )
        if not recorded.finished:
            lines.append(
                f"A checkpoint of step {number(recorded.step)} of {number(state.max_steps)}: the run had not ended."
            )
        if recorded.detector is not None and recorded.step != state.step:
            lines.append("The weights were chosen by their AP on the validation data, so that AP flatters them.")
        if len(state.machines) > 1:
            lines.append("The run went on on another machine or with other releases than it began with.")
        if state.broken_images:
            lines.append(f"{number(state.broken_images)} images could not be read and were replaced by others.")
        lines += log_gap(recorded)
        lines += health_lines(recorded)
    if recorded.detector is None:
        untrained = [level for ratio, level in _LEVELS.items() if ratio not in config["montage_ratios"]]
        if untrained and state is not None:
            lines.append(f"{join(untrained)} of the pyramid took no part in the loss.")
        if state is not None and config["region_scope"] == "lean":
            lines.append(
                "Scope `lean`: the loss is that of the published method, but batch norm saw other batches; that it "
                "transfers as well has not been shown."
            )
        if recorded.supervised:
            lines.append(
                "The published code does not contain supervised MCL; this is an implementation from the paper."
            )
    if config["num_channels"] != 3:
        lines.append(f"Images have {config['num_channels']} channels, and are no RGB.")
    return lines


def _of_the_start(state: TrainingState) -> list[str]:
    """Weights that others made come with terms of their own."""
    start = state.start
    if start.get("kind") not in ("timm", "hub") and not (start.get("kind") == "folder" and "run" not in start):
        return []
    return [f"It started from {start_text(state)}, whose own terms and data apply as well; they are not recorded."]


def _of_the_import(recorded: Recorded) -> list[str]:
    """What of the model came, and what did not."""
    new = [plain(name) for name, (loaded, _) in (recorded.imported or {}).get("parts", {}).items() if not loaded]
    return [f"Only a part of the network; not in it, and random: {join(new)}."] if new else []


def never_run(recorded: Recorded, results: Results) -> list[str]:
    """What a reader might expect and will not find."""
    lines = []
    own = [found for found in results.detections if found.relation in ("own", "from_it")]
    compared = [row for found in results.comparisons for row in found.rows if row.relation == "from_it"]
    if recorded.detector is None:
        if not own and not compared:
            lines.append("Fine-tuning as a detector: no AP on COCO or any other data.")
        if not compared:
            lines.append("A comparison with random or ImageNet weights as the start of a detector.")
        if not results.probes and not any("probe/knn" in line for line in recorded.log):
            lines.append("Probes of what its features know of classes.")
    else:
        if not own:
            lines.append("A measurement of AP.")
        names = {found.data for found in own}
        elsewhere = f" other than {join([plain(name) for name in sorted(names)])}" if names else ""
        lines.append(f"Evaluation on data{elsewhere}.")
    if recorded.state is not None and max((len(found.seeds) for found in (*own, *compared)), default=0) < 2:
        lines.append("More than one seed.")
    lines.append("The exports to other frameworks, for these weights: how well they agree was tested on other ones.")
    return lines
