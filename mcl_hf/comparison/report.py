"""An answer for reading: first the sentence, the picture and what it cost; then protocol, tables, limits.

Flow: answer -> **report** (viz.comparison, report_template.md) -> report.md, report.png, detections.png.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from ..annotations.detection_data import DetectionData
from ..engine.finish import duration
from ..evaluation.evaluation_files import draw_image
from ..files import fill_template, write_json
from ..viz.detections import detections_picture
from .answer import ABOUT, PICTURE, REPORT, SHOWN, Answer, Scores
from .run_job import SHOWN_SCORE, shown_images
from .starts import MATCHED
from .statistics import MOST_SEEDS, Difference, mean_and_sd, paired_difference, seeds_needed

_FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")


def write_report(answer: Answer, test: DetectionData | None = None) -> None:
    """Write the report of what is done so far; `test` has the images to draw what was found in, None draws nothing."""
    folder, plan = answer.output_dir, answer.plan
    write_json(folder / ABOUT, {**answer.about, "answer": answer.to_json()})
    if find_spec("matplotlib") is not None and answer.primary:
        from ..viz.comparison import comparison_picture

        comparison_picture(
            {images: answer.scores(images) for images in plan.images},
            answer.about["counts"],
            [one for images in plan.images for one in answer.differences(images)],
            answer.title,
            answer.about["unit"],
            answer.sentence,
        ).save(folder / PICTURE)
    picture = None if test is None else _draw_found(answer, test)
    if picture is not None:
        picture.save(folder / SHOWN)
    (folder / REPORT).write_text(to_markdown(answer), encoding="utf-8")


def _draw_found(answer: Answer, test: DetectionData) -> Image.Image | None:
    """Annotated and found objects of the images shown, a row of pairs for every start; None where none are known."""
    shown = [test[index] for index in shown_images(test)]
    items = {key: item for item in shown for key in (str(item.image_id), item.name)}  # older results name images
    drawn = []
    for job, result in answer.results.items():
        for name, rows in result.get("shown", {}).items():
            item = items.get(name)
            if item is None:  # older results name images by their paths, and these have moved
                continue
            found = [
                {"image_id": item.image_id, "bbox": row[:4], "category_id": int(row[4]), "score": row[5]}
                for row in rows
            ]
            drawn.append(draw_image(item, test, found, SHOWN_SCORE, f"{job.start}: "))
    if not drawn:
        return None
    return detections_picture(drawn, f"found with {answer.plan.images[0]} {answer.about['unit']}", panel_width=300)


def to_markdown(answer: Answer) -> str:
    """The whole report."""
    plan, folder, fewest = answer.plan, answer.output_dir, answer.plan.images[0]
    lengths = sorted({*plan.curve_steps, answer.main_steps(answer.starts[0], fewest)})
    over_steps = {f"{steps:,}": answer.scores(fewest, steps=steps) for steps in lengths}
    over_scales = {f"x {scale:g}": answer.scores(fewest, scale=scale) for scale in plan.scales}
    names = answer.about["data"]["test"]["classes"]
    most = answer.about["counts"][plan.images[-1]]
    classes = {name: answer.scores(fewest, f"{answer.figure} of {name}") for name in names}
    return fill_template(
        Path(__file__).with_name("report_template.md"),
        answer=answer,
        number="{:,}".format,
        picture=PICTURE if (folder / PICTURE).exists() else None,
        shown=SHOWN if (folder / SHOWN).exists() else None,
        equivalents=", ".join(
            f"with {start} {f'more than {most:,}' if images is None else f'as much as {images:,.0f}'}"
            for start, images in answer.equivalents().items()
        ),
        price=" and ".join(_prices(answer)),
        machines=", ".join(sorted({result["machine"]["device"] for result in answer.results.values()})),
        warnings=[*answer.about["warnings"], *_health(answer)],
        means=means_table(answer),
        differences=_differences(answer),
        over_steps=plan.curve_steps and _by_start(answer, over_steps, leads=True),
        over_scales=over_scales and _by_start(answer, over_scales, leads=True),
        classes=_by_start(answer, {name: of for name, of in classes.items() if any(of.values())}),
        rates=_rates(answer),
        costs=_costs(answer),
    )


def _prices(answer: Answer) -> Iterator[str]:
    for name, kinds in (("pre-trainings", ("pretrain",)), ("detectors", ("tune", "test"))):
        seconds = [result["process_seconds"] for job, result in answer.results.items() if job.kind in kinds]
        if seconds:
            yield f"{len(seconds)} {name} in {duration(sum(seconds))}"


def _health(answer: Answer) -> Iterator[str]:
    """What went wrong in jobs that ended: each kind of it once, with their number. What to do then is left out of
    detectors, whose options are the plan's."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for job, result in answer.results.items():
        lines = ["the loss diverged: there are no figures"] if "diverged" in result else result.get("warnings", [])
        for line in lines if job.kind != "tune" else ():  # a rate that does not work is what tuning is to find
            told = line if job.kind == "pretrain" else line.partition(". ")[0]
            found[job.kind, told].append(job.name)
    for (kind, line), names in found.items():
        others = f" and {len(names) - 1} other {kind} jobs" if len(names) > 1 else ""
        yield f"{names[0]}{others}: {line.rstrip('.')}"


def means_table(answer: Answer) -> str:
    """Every figure's mean over seeds, and its standard deviation."""
    rows = [[answer.about["unit"], "start", "steps", *(f"{answer.kind} {name}" for name in _FIGURES), "seeds"]]
    for images in answer.plan.images:
        scores = [answer.scores(images, f"{answer.kind}/{name}") for name in _FIGURES]
        for start, of in scores[0].items():
            if of:
                cells = [_spread(figure[start]) for figure in scores]
                rows.append([images, start, f"{answer.main_steps(start, images):,}", *cells, str(len(of))])
    return _table(rows, 2)


def _differences(answer: Answer) -> str:
    rows = [[answer.about["unit"], "start", "against", "difference", "95 %", "p", "Holm's p", "seeds that would tell"]]
    for images in answer.plan.images:
        for one in answer.differences(images):
            sd = "" if one.sd is None else f" ± {one.sd:.1f}"
            bounds = "-" if one.low is None else f"{one.low:+.1f} to {one.high:+.1f}"
            found = [f"{one.mean:+.1f}{sd}", bounds, _p(one.p), _p(one.holm), _needed(one)]
            rows.append([images, one.one, one.other, *found])
    return _table(rows, 3)


def _rates(answer: Answer) -> str:
    """Empty where none was chosen."""
    grid = sorted({rate for rates in answer.rates.values() for rate in rates})
    rows = [[answer.about["unit"], "start", *(f"{rate:g}" for rate in grid), "chosen"]]
    for (start, images), rates in answer.rates.items():
        cells = [f"{rates[rate]:.1f}" if rate in rates else "-" for rate in grid]
        chosen = answer.chosen_rate(start, images)
        edge = " (at the grid's edge)" if chosen in (grid[0], grid[-1]) else ""
        rows.append([images, start, *cells, f"{chosen:g}{edge}"])
    return _table(rows, 2) if grid else ""


def _costs(answer: Answer) -> str:
    rows = [["start", "visits of images", "TFLOP", "hours", "images/s", "waiting for data"]]
    for start, source in answer.about["starts"].items():
        found = [r for job, r in answer.results.items() if job.kind == "pretrain" and job.start == source]
        cells = ["none here", "", "", "", ""]
        if start == MATCHED:
            cells[0] = f"{answer.about['matched_steps']:,} further steps of fine-tuning"
        elif found:
            names = ("visits", "flop", "seconds", "images_per_second", "data_wait_share")
            means = [sum(result[name] for result in found) / len(found) for name in names]
            visits, flop, seconds, rate, waiting = means
            cells = [f"{visits:,.0f}", f"{flop / 1e12:.1f}", f"{seconds / 3600:.2f}", f"{rate:.0f}"]
            cells.append(f"{100 * waiting:.0f} %")
        rows.append([start, *cells])
    return _table(rows, 1)


def _by_start(answer: Answer, columns: Mapping[str, Scores], leads: bool = False) -> str:
    rows = [[start, *(_spread(of[start]) for of in columns.values())] for start in answer.starts]
    first, fewest = answer.starts[0], answer.plan.images[0]
    for start in answer.starts[1:] if leads else ():
        found = [paired_difference(start, first, fewest, of) for of in columns.values()]
        rows.append([f"{start} - {first}", *map(_lead, found)])
    return _table([["start", *columns], *rows], 1)


def _lead(one: Difference | None) -> str:
    if one is None or one.low is None:
        return "-" if one is None else f"{one.mean:+.1f}"
    return f"{one.mean:+.1f} ({one.low:+.1f} to {one.high:+.1f})"


def _table(rows: Sequence[Sequence[str]], texts: int) -> str:
    """Markdown; the first so many columns are texts, the others are set to the right."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * texts + "---:|" * (len(rows[0]) - texts), *lines[1:]])


def _spread(of_seed: Mapping[int, float]) -> str:
    if not of_seed:
        return "-"
    mean, sd = mean_and_sd(list(of_seed.values()))
    return f"{mean:.1f}" if sd is None else f"{mean:.1f} ± {sd:.1f}"


def _p(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _needed(one: Difference) -> str:
    if one.sd is None:
        return "at least 2"
    if one.tells:
        return f"{one.seeds} did"
    needed = seeds_needed(one.mean, one.sd)
    return f"above {MOST_SEEDS}" if needed is None else f"about {max(needed, one.seeds + 1)}"
