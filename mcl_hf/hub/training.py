"""How a model was trained: tables of its start, data, schedule, machine and numbers at the end.

Where it sits: card_data -> **training** -> card. A row whose number was not recorded says so.
"""

import statistics
from typing import Any

from ..detection.finetuning.arguments import FinetuneArguments
from ..detection.finetuning.finish import TITLES
from ..detection.models.transformers_detectors import TRANSFORMERS_DETECTORS
from ..engine.finish import duration
from ..engine.hub_resume import fetched
from ..engine.state import TrainingState
from ..viz import summarise
from .card_data import Recorded, without_private_parts
from .markdown import ABSENT, code, count, facts, is_number, join, number, percent, plain
from .run_command import as_text

Rows = list[tuple[str, str]]
_IN_THE_TABLE = {"steps", "loss", "time", "images/s", "broken images", "data wait", "health"}


def training_rows(model: Recorded, data_name: str | None, data_licence: str | None) -> Rows:
    """Of a run: the method, or the protocol that a detector's figures depend on; data, length, machine."""
    state = model.state
    assert state is not None, "only runs have rows"
    data, length = data_rows(state, data_name, data_licence), [*_length_rows(model), *history_rows(state)]
    machine = _machine_rows(model)
    if model.detector is not None:
        return [*protocol_rows(model), *data, ("classes", _classes(model.config)), *length, *machine]
    return [
        *method_rows(model.config, model.arguments, model.supervised),
        ("started from", start_text(state)),
        *data,
        *length,
        ("optimizer", schedule_text(model.arguments, state.global_batch_size, state.max_steps)),
        *machine,
    ]


def history_rows(state: TrainingState) -> Rows:
    """What was changed where the run was resumed, and what the rules of `auto` froze."""
    rows: Rows = []
    for change in state.changes:
        texts = [
            f"{code(name)} {plain(as_text(values['before']))}, then {plain(as_text(values['now']))}"
            for name, values in without_private_parts(change["options"]).items()
        ]
        rows.append((f"changed after step {number(change['from_step'])}", "; ".join(texts)))
    chosen = (state.recipe or {}).get("auto") or {}
    if chosen.get("freezing"):
        rows.append(("by the rules of auto", plain(chosen["freezing"])))
    return rows


def method_rows(config: dict[str, Any], options: dict[str, Any], supervised: bool) -> Rows:
    """What is learnt, by which network, from views of which size."""
    ratios = " ".join(map(str, config["montage_ratios"]))
    if supervised:
        method = f"supervised MCL: every tile classified at its level, montage ratios {ratios}"
    else:
        method = (
            f"MCL: montage ratios {ratios}, level pairing {code(config['level_pairing'])}, temperature "
            f"{config['temperature']:g}, queue of {number(config['queue_size'])}"
        )
    return [
        ("method", f"{method}, scope {code(config['region_scope'])}"),
        ("network", _network(config)),
        ("views", f"{32 * config['region_size']} px, rendered {code(options.get('view_rendering', ABSENT))}"),
    ]


def schedule_text(options: dict[str, Any], images: int, max_steps: int | None) -> str:
    """Optimizer and learning rate of pre-training.

    Args:
        options: of the run.
        images: of a step.
        max_steps: length of the run; None: not known.
    """
    rate: Any = options.get("base_learning_rate")
    speed = f"learning rate up to {rate * images / 256:.4g}" if is_number(rate) else f"learning rate {ABSENT}"
    warmup = options.get("warmup_steps")
    if warmup is None and max_steps is not None:
        warmup = max_steps // 10
    share = options.get("backbone_lr_scale", 1.0)
    speed += f" ({share:g} of it in the backbone)" if is_number(share) and share != 1 else ""
    rising = "a tenth of the run" if warmup is None else count(warmup, "step")
    return (
        f"{plain(options.get('optimizer', ABSENT))}, {speed} after a warm-up of {rising}, then along a cosine to "
        f"{number(options.get('min_lr'))}; weight decay {number(options.get('weight_decay'))}"
    )


def protocol_rows(recorded: Recorded) -> Rows:
    """What must be equal where detectors are compared: heads, norms, freezing, image sizes, schedule."""
    state, config = recorded.state, recorded.config
    if state is None:
        return [("detector", detector_text(config)), ("protocol", ABSENT)]
    return [
        ("detector", detector_text(config)),
        ("started from", start_text(state)),
        *options_rows({**state.arguments, "global_batch_size": state.global_batch_size}, state.max_steps),
    ]


def options_rows(options: dict[str, Any], max_steps: int | None = None) -> Rows:
    """The part of the protocol that options of fine-tuning tell."""
    precise = options.get("precise_bn_steps", 0)
    norms = "batch norm in backbone, FPN and heads, over all processes"
    if options.get("frozen_bn"):
        norms = "batch norm, frozen in the backbone, trained in FPN and heads"
    norms += f"; statistics anew from {number(precise)} training batches before evaluation" if precise else ""
    theirs = options.get("detector") in TRANSFORMERS_DETECTORS  # whose norms are described where they come from
    rows: Rows = [
        *([] if theirs else [("norms", norms)]),
        ("frozen", f"{code('freeze_at')} {plain(options.get('freeze_at', ABSENT))}"),
    ]
    sizes = options.get("min_size_train")
    if sizes:
        trained = plain(sizes[0]) if len(sizes) == 1 else plain(f"{min(sizes)} to {max(sizes)}")
        longest = list(dict.fromkeys(number(options.get(f"max_size_{when}")) for when in ("train", "test")))
        tested = number(options.get("min_size_test"))
        told = (
            f"shorter side {trained} px in training, {tested} px in evaluation; longer side at most {join(longest)} px"
        )
        rows.append(("image size", told))
    steps = options.get("max_steps") if max_steps is None else max_steps
    schedule = (
        f"{number(steps)} steps" if steps else f"{options['epochs']:g} epochs" if options.get("epochs") else ABSENT
    )
    if options.get("global_batch_size"):
        schedule += f" of {number(options['global_batch_size'])} images"
    shares = options.get("lr_milestones") or []
    if shares and not steps:
        schedule += f", learning rate a tenth after {join(shares)} of them"
    elif shares and steps:
        at = [number(step) for step in FinetuneArguments(lr_milestones=shares).milestones(steps)]
        schedule += f", learning rate a tenth from steps {join(at)} on"
    if options.get("warmup_steps") is not None:
        schedule += f", warm-up of {count(options['warmup_steps'], 'step')}"
    rows.append(("schedule", schedule))
    rate = options.get("base_learning_rate")
    speed = f"learning rate {rate:g} for 16 images a step" if is_number(rate) else f"learning rate {ABSENT}"
    rows.append(("optimizer", f"{plain(options.get('optimizer', ABSENT))}, {speed}, weight decay "
                              f"{number(options.get('weight_decay'))}"))  # fmt: skip
    if options.get("augment") in ("light", "strong", "crop"):
        rows.append(("augmentation", code(options["augment"])))
    if options.get("ema"):
        rows.append(("weights", "an exponential moving average of those that were trained"))
    return rows


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


def data_rows(state: TrainingState, data_name: str | None, data_licence: str | None) -> Rows:
    """Source, number of images and licence: those given, else those recorded."""
    found = state.data.get("sources") or []
    tile = state.arguments.get("tile")
    images = f"{number(state.data.get('num_images'))} " + (f"tiles of about {number(tile)} px" if tile else "images")
    if "num_objects" in state.data:
        images += f" with {number(state.data['num_objects'])} objects"
    names = [plain(s["name"]) + (f" (share {number(s['weight'])})" if "weight" in s else "") for s in found]
    name = plain(data_name) if data_name else join(names) or f"source {ABSENT}"
    return [("data", f"{name}: {images}"), ("licence of the data", licence_text(state, data_licence))]


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


def log_rows(recorded: Recorded) -> Rows:
    """What the log alone tells of a run of which nothing else is recorded."""
    first, last = recorded.log[0], recorded.log[-1]
    return [
        ("steps in the log", f"{number(first['step'])} to {number(last['step'])}"),
        ("duration", duration(last["seconds"]) if is_number(last.get("seconds")) else ABSENT),
        *_pace_rows(recorded),
        ("unreadable images", number(last.get("broken_images"))),
    ]


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


def _length_rows(recorded: Recorded) -> Rows:
    state, step = recorded.state, recorded.step
    assert state is not None and step is not None
    length = f"{number(step)} of {number(state.max_steps)}"
    if step != state.step:
        length = f"{number(step)} (the best of {number(state.step)})"
    seen = state.images_seen if step == state.step else step * state.global_batch_size
    images = state.data.get("num_images")
    passes = f", {seen / images:.1f} passes over the data" if is_number(images) and images else ""
    return [
        ("steps", length),
        ("images a step", number(state.global_batch_size)),
        ("images seen", f"{number(seen)}{passes}"),
    ]


def _machine_rows(recorded: Recorded) -> Rows:
    state, options = recorded.state, recorded.arguments
    assert state is not None
    processes = count(state.world_size, "process", "processes")
    rows = [("precision", plain(options.get("precision", ABSENT))), ("seed", number(options.get("seed")))]
    rows += [("hardware", f"{hardware}; {processes}") for hardware in _hardware(state)]
    rows += [
        ("duration", f"{duration(state.seconds)}" + (" (of the whole run)" if recorded.step != state.step else "")),
        *_pace_rows(recorded),
        ("unreadable images", number(state.broken_images)),
        ("software", _software(state)),
    ]
    return rows


def _pace_rows(recorded: Recorded) -> Rows:
    """Speed and memory, as the log has them."""
    peaks = [line["peak_memory_gib"] for line in recorded.log if is_number(line.get("peak_memory_gib"))]
    speeds = [line["images_per_second"] for line in recorded.log if is_number(line.get("images_per_second"))]
    return [
        ("speed", f"{statistics.median(speeds):.1f} images/s, median" if speeds else ABSENT),
        ("peak memory of the main process", f"{max(peaks):.2f} GiB" if peaks else ABSENT),
    ]


def _hardware(state: TrainingState) -> list[str]:
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


def _software(state: TrainingState) -> str:
    last = state.machines[-1] if state.machines else {"packages": {}}
    packages = {**state.versions, **last["packages"]}
    python = {"Python": last["python"]} if "python" in last else {}
    return ", ".join(plain(f"{name} {release}") for name, release in {**python, **packages}.items()) or ABSENT


def _network(config: dict[str, Any]) -> str:
    extra = config.get("backbone_kwargs")
    backbone = code(config["backbone"]) + (f" with {code(as_text(extra))}" if extra else "")
    return (
        f"{backbone}, FPN of {config['fpn_channels']} channels, region head of "
        f"{count(config['region_convs'], 'convolution')}, embeddings of {config['embedding_dim']} numbers"
    )


def detector_text(config: dict[str, Any]) -> str:
    """Kind of a detector, and its parts."""
    if config["detector"] in TRANSFORMERS_DETECTORS:
        return f"{TITLES[config['detector']]} of transformers on {code(config['backbone'])}"
    text = f"{TITLES[config['detector']]} on {code(config['backbone'])} with FPN of {config['fpn_channels']} channels"
    if config["detector"] == "retinanet":
        return text
    fcs = config.get("box_head_fcs", 1)
    layers = "one fully connected layer" if fcs == 1 else count(fcs, "fully connected layer")
    text += f"; box head of {count(config['box_head_convs'], 'convolution')} and {layers}"
    with_masks = config["detector"] == "mask_rcnn"
    return text + (f", mask head of {count(config['mask_head_convs'], 'convolution')}" if with_masks else "")


def _classes(config: dict[str, Any]) -> str:
    names = list((config.get("id2label") or {}).values())
    shown = ", ".join(plain(name) for name in names[:20])
    return f"{len(names)}: {shown}" + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def imported_parts(recorded: Recorded, came: bool = True) -> list[str]:
    """Parts of an imported model that came of the file, or that did not and are random."""
    parts = (recorded.imported or {}).get("parts", {})
    return [plain(name) for name, (loaded, _) in parts.items() if bool(loaded) == came]


def import_rows(imported: dict[str, Any]) -> Rows:
    """Where an imported checkpoint comes from."""
    known = {"MCL": "the published MCL code", "ResNet": "a ResNet of torchvision's names"}
    layout = str(imported["layout"])
    parts = [
        f"{plain(name)} {number(loaded)}/{number(total)}" + ("" if loaded else " (new, random)")
        for name, (loaded, total) in imported["parts"].items()
    ]
    return [
        ("file", code(imported["file"])),
        ("SHA-256", code(imported["sha256"]) if imported.get("sha256") else ABSENT),
        ("layout", plain(known.get(layout, layout))),
        ("tensors that came", ", ".join(parts)),
        *[("remark", plain(remark)) for remark in imported.get("remarks", [])],
        ("imported by", f"mcl_hf {plain(imported.get('mcl_hf', 'of an unknown release'))}"),
    ]


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
