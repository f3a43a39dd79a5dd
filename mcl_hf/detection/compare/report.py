"""An answer for reading: first the sentence, the picture and what it cost; then protocol, tables, limits.

Flow: answer -> **report** (viz.comparison draws) -> report.md, report.png, detections.png, comparison.json.
"""

from collections.abc import Iterable, Sequence
from importlib.util import find_spec

from PIL import Image

from ...engine.finish import duration
from ...files import write_json
from ...viz.detections import detections_picture
from ..data.detection_data import DetectionData
from ..evaluation.evaluation_files import draw_image
from .answer import ABOUT, PICTURE, REPORT, SHOWN, Answer
from .run_job import SHOWN_SCORE, shown_images
from .starts import MATCHED
from .statistics import Difference, mean_and_sd, seeds_needed


def write_report(answer: Answer, test: DetectionData | None = None) -> None:
    """Write the report of what is done so far.

    Args:
        answer: of the jobs done.
        test: to draw what was found in; None draws nothing.
    """
    folder = answer.output_dir
    write_json(folder / ABOUT, {**answer.about, "failed": answer.failed, "answer": answer.to_json()})
    drawn = find_spec("matplotlib") is not None and bool(answer.primary)
    if drawn:
        from ...viz.comparison import comparison_picture

        comparison_picture(
            {images: answer.scores(images) for images in answer.plan.images},
            answer.about["counts"],
            [one for images in answer.plan.images for one in answer.differences(images)],
            answer.title,
            answer.about["unit"],
            answer.sentence,
        ).save(folder / PICTURE)
    if test is not None and any("shown" in result for result in answer.results.values()):
        _draw_found(answer, test).save(folder / SHOWN)
    (folder / REPORT).write_text(to_markdown(answer), encoding="utf-8")


def _draw_found(answer: Answer, test: DetectionData) -> Image.Image:
    """Annotated and found objects of the images shown: a row of pairs for every start, first seed and subset."""
    shown = [test[index] for index in shown_images(test)]
    items = {key: item for item in shown for key in (str(item.image_id), item.name)}  # older results name images
    drawn = []
    for job, result in answer.results.items():
        for name, rows in result.get("shown", {}).items():
            item = items[name]
            found = [
                {"image_id": item.image_id, "bbox": row[:4], "category_id": int(row[4]), "score": row[5]}
                for row in rows
            ]
            drawn.append(draw_image(item, test, found, SHOWN_SCORE, f"{job.start}: "))
    return detections_picture(drawn, f"found with {answer.plan.images[0]} {answer.about['unit']}", panel_width=300)


def to_markdown(answer: Answer) -> str:
    """The whole report."""
    folder, done = answer.output_dir, len(answer.results)
    lines = ["# Does it help?", "", f"**{answer.sentence}**", ""]
    if done < answer.planned:
        lines += [f"{done} of {answer.planned} jobs are done; this will change.", ""]
    if (folder / PICTURE).exists():
        lines += [f"![{answer.title} of every start, and the differences]({PICTURE})", ""]
    lines += [*_equivalents(answer), *_price(answer), ""]
    lines += [f"* **Beware:** {warning}." for warning in [*answer.about["warnings"], *_health(answer)]]
    lines += [f"* **Failed:** {job}: {reason}" for job, reason in answer.failed.items()]
    lines += ["", "## Protocol", "", *_protocol(answer)]
    lines += ["", "## Figures", "", *_means(answer), "", *_differences(answer)]
    lines += _curves(answer)
    lines += ["", f"{answer.title} of each class, %, with {answer.plan.images[0]} {answer.about['unit']}:", ""]
    lines += _classes(answer)
    if any(answer.rates(start, images) for start in answer.starts for images in answer.plan.images):
        lines += ["", "Learning rates, and what they came to on the validation images:", "", *_rates(answer)]
    lines += ["", "What pre-training cost:", "", *_costs(answer)]
    if (folder / SHOWN).exists():
        lines += ["", f"![Annotated and found objects of the same test images]({SHOWN})", ""]
    lines += ["", "## Limits", "", *_limits(answer)]
    return "\n".join(lines) + "\n"


def summary(answer: Answer) -> list[str]:
    """The table of means and the sentence, for the terminal."""
    return [*_means(answer), answer.sentence]


def _equivalents(answer: Answer) -> list[str]:
    found, first, fewest = answer.equivalents(), answer.starts[0], answer.plan.images[0]
    if not found:
        return []
    told = [
        f"{start} like {number:.0f}" if number is not None else f"{start} like more than there are"
        for start, number in found.items()
    ]
    return [f"In labels: {fewest} {answer.about['unit']} of {first} and of {', '.join(told)} of {first}.", ""]


def _price(answer: Answer) -> list[str]:
    pretraining = [r for job, r in answer.results.items() if job.kind == "pretrain"]
    detectors = [r for job, r in answer.results.items() if job.kind in ("tune", "test")]
    parts = [
        f"{len(found)} {name} in {duration(sum(result['process_seconds'] for result in found))}"
        for name, found in (("pre-trainings", pretraining), ("detectors", detectors)) if found
    ]  # fmt: skip
    machines = sorted({result["machine"]["device"] for result in answer.results.values()})
    return [f"It cost {' and '.join(parts)} of processes on {', '.join(machines)}."] if parts else []


def _health(answer: Answer) -> Iterable[str]:
    """What went wrong in jobs that ended: each kind of it once, with the number of jobs and the first of them. What a
    run of its own would be told to do then is left out of detectors, whose options are the plan's."""
    found: dict[tuple[str, str], list[str]] = {}
    for job, result in answer.results.items():
        lines = ["the loss diverged: there are no figures"] if "diverged" in result else result.get("warnings", [])
        for line in lines:
            told = line if job.kind == "pretrain" else line.partition(". ")[0]
            found.setdefault((job.kind, told), []).append(job.name)
    for (kind, line), names in found.items():
        if kind != "tune":  # a rate that does not work is what tuning is to find
            others = f" and {len(names) - 1} other {kind} jobs" if len(names) > 1 else ""
            yield f"{names[0]}{others}: {line.rstrip('.')}"


def _protocol(answer: Answer) -> list[str]:
    plan, about = answer.plan, answer.about
    lines = []
    for name, data in about["data"].items():
        lines.append(
            f"* {name}: {data['images']:,} images, {data['objects']:,} objects of {len(data['classes'])} classes "
            f"(digest `{data['fingerprint']}`)"
        )
    counts = ", ".join(f"{images} ({about['counts'][images]:,})" for images in plan.images)
    lines.append(f"* {about['unit']}: {counts}; images without objects are left out of training")
    seeds = f"{plan.seeds} seed{'s' if plan.seeds > 1 else ''} from {plan.first_seed} on"
    lines.append(
        f"* {seeds}: one pre-training each, and {plan.subsets} labelled subset(s) of its own, whose figures are "
        "averaged. Subsets, order, flips and new weights of a seed are the same for every start, and fewer labelled "
        "images lie within more"
    )
    steps = {f"{start} {images}": answer.main_steps(start, images) for images in plan.images for start in answer.starts}
    plain = {images: steps[f"{answer.starts[0]} {images}"] for images in plan.images}
    told = ", ".join(f"{number:,} steps with {images}" for images, number in plain.items())
    lines.append(f"* fine-tuning: {about['finetune']}; {told}; everything trains unless a start says otherwise")
    for start, options in about["differs"].items():
        lines.append(f"* {start} differs in fine-tuning: {options}")
    if about["visits"]:
        told = ", ".join(f"{name} {visits:,}" for name, visits in about["visits"].items())
        lines.append(
            f"* pre-training: {about['unlabelled']['images']:,} images without labels "
            f"(digest `{about['unlabelled']['fingerprint']}`); visits of images: {told} (equal {plan.equal})"
        )
    return lines


def _means(answer: Answer) -> list[str]:
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
    rows = [[answer.about["unit"], "start", "steps", *(f"{answer.kind} {name}" for name in names), "seeds"]]
    for images in answer.plan.images:
        scores = {name: answer.scores(images, f"{answer.kind}/{name}") for name in names}
        for start in answer.starts:
            if not scores["AP"][start]:
                continue
            cells = [_spread(list(scores[name][start].values())) for name in names]
            steps = f"{answer.main_steps(start, images):,}"
            rows.append([images, start, steps, *cells, str(len(scores["AP"][start]))])
    return _table(rows, 2)


def _differences(answer: Answer) -> list[str]:
    rows = [[answer.about["unit"], "start", "against", "difference", "95 %", "p", "Holm's p", "seeds that would tell"]]
    for images in answer.plan.images:
        for one in answer.differences(images):
            rows.append(
                [images, one.one, one.other, f"{one.mean:+.1f}" + ("" if one.sd is None else f" ± {one.sd:.1f}"),
                 _bounds(one), _p(one.p), _p(one.holm), _needed(one)]
            )  # fmt: skip
    title = f"Differences in {answer.title}, points, seed by seed; those with Holm's p are what the plan is for:"
    return [title, "", *_table(rows, 3)]


def _curves(answer: Answer) -> list[str]:
    plan, lines = answer.plan, []
    fewest = plan.images[0]
    if plan.curve_steps:
        lengths = sorted({*plan.curve_steps, answer.main_steps(answer.starts[0], fewest)})
        columns = {f"{steps:,}": answer.scores(fewest, steps=steps) for steps in lengths}
        lines += ["", f"{answer.title} over steps, each a whole schedule, with {fewest} {answer.about['unit']}:", ""]
        lines += _by_start(answer, columns)
    if plan.scales:
        columns = {f"x {scale:g}": answer.scores(fewest, scale=scale) for scale in plan.scales}
        lines += ["", f"{answer.title} with the test images at other sizes, first subset of each seed:", ""]
        lines += _by_start(answer, columns)
    return lines


def _by_start(answer: Answer, columns: dict[str, dict[str, dict[int, float]]]) -> list[str]:
    rows = [["start", *columns]]
    rows += [[start, *(_spread(list(of[start].values())) for of in columns.values())] for start in answer.starts]
    return _table(rows, 1)


def _classes(answer: Answer) -> list[str]:
    names = answer.about["data"]["test"]["classes"]
    columns = {name: answer.scores(answer.plan.images[0], f"{answer.figure} of {name}") for name in names}
    return _by_start(answer, {name: of for name, of in columns.items() if any(of.values())})


def _rates(answer: Answer) -> list[str]:
    rates = sorted({rate for start in answer.starts for im in answer.plan.images for rate in answer.rates(start, im)})
    rows = [[answer.about["unit"], "start", *(f"{rate:g}" for rate in rates), "chosen"]]
    for images in answer.plan.images:
        for start in answer.starts:
            found = answer.rates(start, images)
            if found:
                cells = [f"{found[rate]:.1f}" if rate in found else "-" for rate in rates]
                chosen = answer.chosen_rate(start, images) or 0.0
                edge = " (at the grid's edge)" if chosen in (rates[0], rates[-1]) else ""
                rows.append([images, start, *cells, f"{chosen:g}{edge}"])
    return _table(rows, 2)


def _costs(answer: Answer) -> list[str]:
    rows = [["start", "visits of images", "TFLOP", "hours", "images/s", "waiting for data"]]
    for start in answer.starts:
        source = answer.of_start[start]
        found = [r for job, r in answer.results.items() if job.kind == "pretrain" and job.start == source]
        if not found:
            extra = answer.about["matched_steps"]
            told = f"{extra:,} further steps of fine-tuning" if start == MATCHED else "none here"
            rows.append([start, told, "", "", "", ""])
            continue
        mean = {key: sum(result[key] for result in found) / len(found) for key in (
            "visits", "flop", "seconds", "images_per_second", "data_wait_share")}  # fmt: skip
        rows.append(
            [start, f"{mean['visits']:,.0f}", f"{mean['flop'] / 1e12:.1f}", f"{mean['seconds'] / 3600:.2f}",
             f"{mean['images_per_second']:.0f}", f"{100 * mean['data_wait_share']:.0f} %"]
        )  # fmt: skip
    return _table(rows, 1)


def _limits(answer: Answer) -> list[str]:
    return [
        "* Intervals are Student's t over seeds, of each difference alone; Holm's p holds for all that the plan is for "
        "together. They cover what a seed changes: the pre-training (where a start has one here), the labelled "
        "subsets, their order and new weights. They do not cover other test images, other data, or other options.",
        "* They are too narrow where seeds were added until something told, or where the test images were asked "
        "before the plan was made.",
        "* Seeds that would tell: how many a difference of this size and spread needs, an order of magnitude.",
        "* A start that is there already (timm's, a folder) is one start: another run of its pre-training differs.",
    ]


def _table(rows: Sequence[Sequence[str]], texts: int) -> list[str]:
    """Markdown; the first so many columns are texts, the others are set to the right."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return [lines[0], "|" + "---|" * texts + "---:|" * (len(rows[0]) - texts), *lines[1:]]


def _spread(values: list[float]) -> str:
    if not values:
        return "-"
    mean, sd = mean_and_sd(values)
    return f"{mean:.1f}" if sd is None else f"{mean:.1f} ± {sd:.1f}"


def _bounds(one: Difference) -> str:
    return "-" if one.low is None or one.high is None else f"{one.low:+.1f} to {one.high:+.1f}"


def _p(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _needed(one: Difference) -> str:
    if one.sd is None:
        return "at least 2"
    if one.tells:
        return f"{one.seeds} did"
    needed = seeds_needed(one.mean, one.sd)
    return "above 50" if needed is None else f"about {max(needed, one.seeds + 1)}"
