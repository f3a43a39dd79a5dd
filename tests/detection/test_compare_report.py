"""The sentence, the tables and the picture of a comparison, from made-up results."""

import dataclasses
import json

import numpy as np
import pytest

from mcl_hf.detection.compare_job import JobResult
from mcl_hf.detection.compare_report import Comparison, renamed, sentence, short_names, to_json, to_markdown
from mcl_hf.viz.comparison import comparison_picture

SHARED = [0.02, -0.01, 0.005]
DATA = {
    use: {
        "sources": [{"kind": "files", "name": name, "licence": None}], "split": use, "num_images": images,
        "num_objects": 3 * images, "fingerprint": digest,
    }
    for use, name, images, digest in [("training", "cups", 40, "ab12"), ("validation", "mugs", 12, "cd34")]
}  # fmt: skip


def comparison(aps, fractions=(1.0,), masks=False, **changes):
    """`aps`: start -> AP in [0, 1] of each seed, the same at all fractions."""
    results = [
        JobResult(start, fraction, seed, {"eval/box/AP": ap, **({"eval/mask/AP": ap / 2} if masks else {})}, 9, 9, 40)
        for start, values in aps.items()
        for fraction in fractions
        for seed, ap in enumerate(values)
    ]
    most = max(map(len, aps.values()))
    values = {
        "starts": list(aps), "fractions": list(fractions), "seeds": list(range(most)), "results": results, "failed": {},
        "data": DATA, "warnings": [],
    }  # fmt: skip
    return Comparison(**{**values, **changes})


CLEAR = {"random": [0.1 + x for x in SHARED], "my-run": [0.3 + x for x in SHARED], "old": [0.2 + x for x in SHARED]}
for place, small in enumerate((0.001, -0.001, 0.0)):  # so that no spread is 0
    CLEAR["my-run"][place] += small
TIE = {"a": [0.30, 0.31, 0.29], "b": [0.31, 0.29, 0.295], "random": [0.05, 0.051, 0.049]}


def test_a_winner_is_named_with_its_intervals():
    said = sentence(comparison(CLEAR))
    assert said.startswith("With 100 % of the labels my-run won: 10.0 (") and "above old, 20.0 (" in said
    assert "3 seeds, which vary order, new weights; the same 12 validation images" in said


def test_a_tie_is_said_and_who_was_beaten():
    said = sentence(comparison(TIE))
    assert "the data cannot tell a from b (0.2 behind, -" in said and "but a beat random" in said and "won" not in said


def test_one_seed_cannot_tell():
    one = comparison({"a": [0.3], "b": [0.1]})
    assert "one seed cannot tell a difference from chance: a is ahead, b 20.0 behind" in sentence(one)
    assert "| 100 % | a | b | 20.0 | - | - | at least 2 |" in to_markdown(one)


def test_detectors_that_find_nothing_are_not_compared():
    said = sentence(comparison({"a": [0.002, 0.003], "b": [0.0, 0.0]}))
    assert "no start has reached an AP of 1: train for longer" in said


def test_every_fraction_has_its_part_and_the_choice_of_images_is_named():
    said = sentence(comparison(CLEAR, fractions=(0.1, 1.0)))
    assert said.startswith("With 10 % of the labels my-run won") and "; with 100 % of the labels my-run won" in said
    assert "the choice of labelled images" in said


def test_masks_decide_where_all_have_them():
    assert comparison(CLEAR, masks=True).figure == "eval/mask/AP" and comparison(CLEAR).figure == "eval/box/AP"
    assert "(mask AP, 3 seeds" in sentence(comparison(CLEAR, masks=True))


def test_the_report_shows_means_spreads_warnings_and_failures():
    text = to_markdown(
        comparison(CLEAR, warnings=["they differ"], failed={"random, seed 7": "NaN"}, seeds=[0, 1, 2, 7])
    )
    assert "| 100 % | random | 40 | 9 | 10.5 ± 1.5 | 12.0 9.0 10.5 | 3 |" in text
    assert "**9 of 12 jobs are done; this will change.**" in text
    assert "**Beware:** they differ." in text and "**Failed:** random, seed 7: NaN" in text
    assert "the 3 intervals hold together in 95 %" in text


def test_the_report_names_its_data():
    lines = to_markdown(comparison(CLEAR)).splitlines()
    assert "| training | cups | training | 40 | 120 | ab12 |" in lines
    assert "| validation | mugs | validation | 12 | 36 | cd34 |" in lines
    assert to_json(comparison(CLEAR))["data"] == DATA


def test_a_job_whose_loss_exploded_is_named():
    found = comparison(CLEAR)
    broken = dataclasses.replace(found.results[3], diverged=True)
    found = comparison(CLEAR, results=[*found.results[:3], broken], warnings=["they differ"])
    assert (
        found.beware[0] == "they differ" and "loss of my-run, 100 % of the labels, seed 0 exploded" in found.beware[1]
    )
    assert found.beware == to_json(found)["warnings"] and f"**Beware:** {found.beware[1]}." in to_markdown(found)
    assert comparison(CLEAR).beware == []


def test_nothing_done_yet_and_a_start_without_results():
    assert "there is nothing to compare yet" in sentence(comparison(CLEAR, results=[]))
    some = comparison(CLEAR)
    some = comparison(CLEAR, results=[result for result in some.results if result.start != "old"])
    assert "my-run won: 20.0" in sentence(some) and "(nothing yet of old)" in sentence(some)
    assert "| 100 % | old |  |  |  |  | 0 |" in to_markdown(some)


def test_json_holds_every_number():
    content = json.loads(json.dumps(to_json(comparison(CLEAR, fractions=(0.1, 1.0)))))
    assert content["figure"] == "eval/box/AP" and content["jobs_done"] == content["jobs_planned"] == 18
    assert len(content["differences"]) == 6 and content["interval"]["together"] == 6
    first = content["differences"][0]
    assert (first["better"], first["other"], first["tells"], first["on_seeds"]) == ("my-run", "old", True, [0, 1, 2])
    assert first["mean"] == pytest.approx(10) and first["low"] < first["mean"] < first["high"]


def test_paths_are_shortened_where_that_is_clear():
    assert short_names(["random", "runs/a/", "timm:resnet50"])["runs/a/"] == "a"
    assert short_names(["one/a", "two/a"]) == {"one/a": "one/a", "two/a": "two/a"}
    short = renamed(comparison({"x/a": [0.3], "b": [0.2]}), {"x/a": "a", "b": "b"})
    assert short.starts == ["a", "b"] and {result.start for result in short.results} == {"a", "b"}


@pytest.mark.parametrize("aps", [CLEAR, TIE, {"$a": [0.3], "b_$": [0.1]}, {"a": [0.3], "b": []}])
def test_the_picture_shows_scores_and_intervals(aps):
    found = comparison(aps, fractions=(0.1, 1.0))
    scores = {fraction: found.scores(fraction) for fraction in found.fractions}
    pairs = {fraction: [vars(pair) for pair in found.differences(fraction)] for fraction in found.fractions}
    pixels = np.asarray(comparison_picture(scores, pairs, "box AP", sentence(found)))
    assert pixels.shape[1:] == (1280, 3) and pixels[100:].min() < 80  # lines are drawn
    blank = np.asarray(comparison_picture(scores, {}, "box AP", sentence(found)))
    same = pixels.shape == blank.shape and not (pixels[:, 640:] != blank[:, 640:]).any()
    assert same == (not any(pairs.values()))
