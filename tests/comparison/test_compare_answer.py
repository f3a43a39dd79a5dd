"""What is made of results: means over subsets, paired differences, Holm, label equivalents, sentence, report."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

from mcl_hf.comparison.answer import ABOUT, PLAN, read_answer, read_primary
from mcl_hf.comparison.jobs import Job, digest_of, list_jobs, result_file
from mcl_hf.comparison.plan import load_plan
from mcl_hf.comparison.report import to_markdown, write_report
from mcl_hf.comparison.statistics import holm, label_equivalent, paired_difference, seeds_needed, t_bound
from mcl_hf.errors import InputError
from mcl_hf.finetuning.health import observe, verdicts

ROOT = Path(__file__).parents[2]
DEMONSTRATIONS = ROOT / "evaluation" / "demonstrations"
BOARDS = ROOT / "evaluation" / "deeppcb"
PROOFS = (BOARDS, *(BOARDS / name for name in ("control", "longer", "curves", "scales")), ROOT / "evaluation" / "bccd")


def write_answer(folder, scores, *, images=("25",), subsets=1, figure="AP50", more="", tuned=None):
    """A finished comparison whose score of (start, images, seed, subset) is `scores(...)` percent."""
    starts = ["random", "image", "mcl"]
    (folder / "results").mkdir(parents=True)
    jobs = []
    for start in starts:
        for count in images:
            for seed in (0, 1, 2):
                jobs += [Job("test", start, seed, count, subset, 10, 0.1) for subset in range(subsets)]
            jobs += [
                Job("tune", start, 1000, count, subset, 10, rate)
                for rate in (0.1, 0.2) for subset in range(subsets) if tuned is not None
            ]  # fmt: skip
    for job in jobs:
        value = tuned(job) if job.kind == "tune" else scores(job.start, job.images, job.seed, job.subset)
        figures = {f"box/{name}": value / 100 for name in ("AP", "AP50", "AP75", "APs", "AR100")}
        result = {"job": dataclasses.asdict(job), "digest": "d", "figures": figures, "process_seconds": 60.0}
        result |= {"machine": {"device": "a processor"}, "warnings": [], "options": {}}
        result_file(folder, job.name).write_text(json.dumps(result))
    (folder / PLAN).write_text(
        f"data: mine\nstarts: [random, image, mcl]\nimages: [{', '.join(images)}]\nseeds: 3\nsubsets: {subsets}\n"
        f"figure: {figure}\n{more}"
    )
    data = {"images": 40, "objects": 80, "classes": ["one"], "fingerprint": "f"}
    about = {
        "starts": {"random": None, "image": "image", "mcl": "mcl"}, "jobs": [dataclasses.asdict(job) for job in jobs],
        "data": {"train": data, "test": data}, "unit": "labelled images", "warnings": [], "visits": {},
        "counts": {count: int(count) for count in images}, "unlabelled": None, "matched_steps": 0, "differs": {},
        "lengths": {f"{start} {count}": 10 for start in starts for count in images}, "finetune": "a detector",
    }  # fmt: skip
    (folder / ABOUT).write_text(json.dumps(about))
    return folder


@pytest.mark.parametrize(
    ("name", "pair", "tells"), [("clear", ("trained", "random"), True), ("equal", ("other", "one"), False)]
)
def test_the_demonstrations_say_what_they_have_to(name, pair, tells):
    """Recorded runs: a start that was trained on the classes, and two that differ in their seed alone."""
    folder = DEMONSTRATIONS / name
    answer = read_answer(folder)
    (difference,) = answer.primary
    assert ((difference.one, difference.other), difference.seeds, difference.tells) == (pair, 3, tells)
    assert ("cannot tell" in answer.sentence) == (not tells) and ("is above" in answer.sentence) == tells
    assert answer.sentence in (folder / "report.md").read_text()
    assert all(result["commit"] and result["machine"] for result in answer.results.values())


def test_reports_page_and_readme_of_the_proofs_say_what_their_results_say():
    reports = [(proof / "report.md").read_text() for proof in PROOFS]
    for proof, report in zip(PROOFS, reports, strict=True):
        assert to_markdown(read_answer(proof)) == report
    report = "\n".join(reports)
    rows = [line for line in (ROOT / "docs" / "proof.md").read_text().splitlines() if line.startswith("|")]
    assert len(rows) > 20 and set(rows) <= set(report.splitlines())
    told = (ROOT / "README.md").read_text().partition("## Does it help?")[2].partition("\n## ")[0]
    figures = re.findall(r"[+-]?\d+\.\d", told)
    assert len(figures) >= 4 and all(figure in report for figure in figures), figures


def test_curves_have_the_difference_that_the_table_of_differences_has():
    report = (BOARDS / "curves" / "report.md").read_text()
    one = next(one for one in read_answer(BOARDS / "curves").differences("25") if one.one == "mcl")
    row = next(line for line in report.splitlines() if line.startswith("| mcl - random |"))
    assert row.endswith(f" {one.mean:+.1f} ({one.low:+.1f} to {one.high:+.1f}) |")


def test_what_the_page_says_of_long_fine_tuning_is_what_the_two_controls_say():
    """The detectors from random weights are those of `control`, which `longer` has under another name."""
    control, longer = read_answer(BOARDS / "control"), read_answer(BOARDS / "longer")
    scores = {"mcl": longer.scores("25")["mcl"], "random": control.scores("25")["random-matched"]}
    found = paired_difference("mcl", "random", "25", scores)
    assert found.seeds == 4 and longer.main_steps("mcl", "25") == control.main_steps("random-matched", "25") == 1836
    page = " ".join((ROOT / "docs" / "proof.md").read_text().split())
    assert f"{found.mean:.1f} points above `random-matched` (95 % {found.low:+.1f} to {found.high:+.1f} over" in page
    for job, result in longer.results.items():
        if job.start == "random":
            of_control = control.results[dataclasses.replace(job, start="random-matched")]
            assert (result["figures"], result["loss"]) == (of_control["figures"], of_control["loss"])


@pytest.mark.parametrize("proof", PROOFS, ids=lambda folder: folder.name)
def test_published_results_are_of_their_digests_still(proof):
    """So that a comparison goes on in these folders."""
    answer = read_answer(proof)
    plan, about = answer.plan, answer.about
    assert answer.results
    for job, result in answer.results.items():
        source = about["starts"][job.start] if job.images else None
        start = about["inits"][job.start] if job.images else None
        if source is not None:
            start = answer.results[Job("pretrain", source, job.seed)]["digest"]
        first = job.kind == "test" and job.subset == 0 and job.images == plan.images[0]
        settings = {"scales": plan.scales if first else [], "label_group": plan.label_group}
        assert digest_of(job, {**result["options"], **settings}, result["data"], start) == result["digest"]


def test_a_clear_difference_is_told_and_a_small_one_is_not(tmp_path):
    gain = {"random": [0, 0, 0], "image": [1, -1, 0.5], "mcl": [7, 8, 9]}
    answer = read_answer(write_answer(tmp_path / "a", lambda start, images, seed, subset: 40 + gain[start][seed]))
    image, mcl = answer.primary
    assert (mcl.one, mcl.other, round(mcl.mean, 6), round(mcl.sd, 6), mcl.tells) == ("mcl", "random", 8.0, 1.0, True)
    assert round(mcl.low, 3) == round(8 - 4.302653 / 3**0.5, 3)
    assert not image.tells and image.low < 0 < image.high
    assert "; mcl is above random (+8.0, 95 % +5.5 to +10.5)" in answer.sentence
    assert answer.sentence.startswith("With 25 labelled images the data cannot tell image from random (")
    text = to_markdown(answer)
    assert text.index(answer.sentence) < text.index("It cost") < text.index("## Protocol") < text.index("## Limits")


def test_warnings_of_detectors_speak_of_no_validation_data_and_no_folder(tmp_path):
    folder = write_answer(tmp_path / "a", lambda start, images, seed, subset: 0.1)
    (line,) = verdicts(observe({}, {"loss": 1.0}), {"loss": 1.0, "step": 10}, 10, 0.001).values()
    for path in (folder / "results").glob("test-*.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "warnings": [line]}))
    (told,) = [one for one in to_markdown(read_answer(folder)).splitlines() if "Beware" in one]
    assert told.endswith("and 8 other test jobs: finds nothing: AP is 0.1 % on the images it is measured on.")


def test_equal_starts_cannot_be_told_apart(tmp_path):
    noise = np.random.default_rng(0).normal(0, 3, (3, 3))
    rows = {"random": noise[0], "image": noise[1], "mcl": noise[2]}
    answer = read_answer(write_answer(tmp_path / "a", lambda start, images, seed, subset: 40 + rows[start][seed]))
    assert not any(one.tells for one in answer.primary)
    assert answer.sentence.count("cannot tell") == 2


def test_subsets_are_averaged_within_a_seed_and_a_seed_that_lacks_one_does_not_count(tmp_path):
    folder = write_answer(tmp_path / "a", lambda start, images, seed, subset: 10 * seed + subset, subsets=2)
    assert read_answer(folder).scores("25")["mcl"] == pytest.approx({0: 0.5, 1: 10.5, 2: 20.5})
    result_file(folder, "test-mcl-i25-t10-s1-k1").unlink()
    answer = read_answer(folder)
    assert sorted(answer.scores("25")["mcl"]) == [0, 2]
    assert answer.primary[1].seeds == 2  # paired with random on the same two


def test_the_better_of_several_is_chosen_on_validation_not_on_test(tmp_path):
    def tuned(job):
        return {"random": 30, "image": 50, "mcl": 40}[job.start] + (1 if job.rate == 0.2 else 0)

    folder = write_answer(
        tmp_path / "a", lambda start, images, seed, subset: {"random": 45, "image": 44, "mcl": 50}[start] + 0.1 * seed,
        more="primary: [[mcl, [random, image], 25]]\n", tuned=tuned,
    )  # fmt: skip
    answer = read_answer(folder)
    assert [(one.one, one.other) for one in answer.primary] == [("mcl", "image")]
    assert answer.chosen_rate("mcl", "25") == 0.2 and "(at the grid's edge)" in to_markdown(answer)


def test_labels_that_another_start_would_need(tmp_path):
    level = {"25": {"random": 40, "image": 40, "mcl": 50}, "100": {"random": 60, "image": 61, "mcl": 61}}
    folder = write_answer(tmp_path / "a", lambda start, images, seed, subset: level[images][start],
                          images=("25", "100"))  # fmt: skip
    answer = read_answer(folder)
    assert answer.equivalents() == {"mcl": pytest.approx(50.0)}
    assert "25 labelled images are worth with mcl as much as 50 with random." in to_markdown(answer)
    write_report(answer)
    found = json.loads((folder / ABOUT).read_text())["answer"]
    assert found["sentence"] == answer.sentence and (folder / "report.png").is_file()
    assert read_answer(folder).sentence == answer.sentence


def test_holm_and_t_agree_with_tables():
    assert t_bound(5) == pytest.approx(2.5706, abs=1e-4)
    assert holm([0.04, 0.01]) == [0.04, 0.02]
    one = paired_difference("a", "b", "25", {"a": {0: 3.0, 1: 5.0, 2: 4.0}, "b": {0: 1.0, 1: 2.0, 2: 3.0}})
    assert one.p == pytest.approx(0.0742, abs=1e-4)  # scipy.stats.ttest_rel
    assert paired_difference("a", "b", "25", {"a": {0: 3.0}, "b": {1: 2.0}}) is None
    assert seeds_needed(1.0, 1.0) == 7
    assert label_equivalent([25, 100], [10.0, 20.0], 30.0) is None


def test_primary_pairs_must_name_starts_and_images():
    starts, images = ["random", "mcl"], ["25", "all"]
    assert read_primary([["mcl", "random"]], starts, images) == [("mcl", ["random"], "25")]
    for wrong in (["mcl"], ["mcl", "none", 25], ["mcl", "random", 30], ["mcl", "mcl", 25], "mcl"):
        with pytest.raises(InputError, match="primary"):
            read_primary([wrong], starts, images)


def test_jobs_need_what_they_start_from_and_the_rates_they_are_to_use():
    plan = load_plan(images=["25", "all"], curve_steps=[5], seeds=2, tuning_seed=9, subsets=2)
    of_start = {"random": None, "mcl": "mcl", "mcl-backbone": "mcl"}
    needs = list_jobs(plan, of_start, {(start, i): 10 for start in of_start for i in plan.images}, [0.1, 0.2])
    names = [job.name for job in needs]
    assert len(set(names)) == len(names) == 3 + 3 * 2 * 2 * 2 + 2 * 2 * 3 * (2 + 1)
    of_test = next(of for job, of in needs.items() if job.name == "test-mcl-backbone-i25-t10-s1-k0")
    tunes = {job.name for job in of_test} - {"pretrain-mcl-s1"}
    assert len(of_test) == 1 + len(tunes) and len(tunes) == 2 * 2
    assert all(name.startswith("tune-mcl-backbone-i25") for name in tunes)
    of_tune = next(of for job, of in needs.items() if job.kind == "tune" and job.start == "mcl")
    assert [job.name for job in of_tune] == ["pretrain-mcl-s9"]
    timed = list_jobs(load_plan(equal="seconds"), of_start, {(start, "all"): 10 for start in of_start}, [0.1])
    assert [job.name for job in timed][:2] == ["pace-mcl-s0", "pretrain-mcl-s0"]
    assert {job.name for job in next(of for job, of in timed.items() if job.kind == "pretrain")} == {"pace-mcl-s0"}


def test_a_plan_takes_texts_of_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a,b").mkdir()
    assert load_plan(starts="a,b").starts == ["a,b"]
    long = [f"timm:{'x' * 60}{number}" for number in range(9)]  # together longer than a file's name may be
    plan = load_plan(starts=",".join(long), primary="mcl:random:25,mcl:image", steps="3,4", images=["25", "all"])
    assert plan.starts == long and plan.primary == [["mcl", "random", "25"], ["mcl", "image"]]
    assert plan.steps == [3, 4] and load_plan(steps="3").steps == 3
    with pytest.raises(InputError, match="steps must be a number"):
        load_plan(steps="many")


@pytest.mark.parametrize(
    ("fields", "decisive"),
    [
        ({"imags": [3]}, "did you mean 'images'"),
        ({"images": ["100", "25"]}, "ascending"),
        ({"images": ["many"]}, "ascending"),
        ({"seeds": 0}, "seeds"),
        ({"tuning_seed": 1}, "used again"),
        ({"steps": [1, 2]}, "steps"),
        ({"learning_rates": [0.1, 0.1]}, "learning_rates"),
        ({"scales": [-1]}, "scales"),
        ({"equal": "money"}, "equal"),
    ],
)
def test_a_plan_is_checked_when_it_is_made(fields, decisive):
    with pytest.raises(InputError, match=decisive):
        load_plan(None, **fields)


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "{" * 3000, "\x00"])
def test_a_file_that_is_no_plan_is_one_line(tmp_path, text):
    file = tmp_path / "plan.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match="plan"):
        load_plan(str(file))
    with pytest.raises(InputError, match="cannot be read"):
        load_plan(str(tmp_path / "none.yaml"))
