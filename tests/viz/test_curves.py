"""Reading run logs, summarising and drawing them."""

import json
import re

import numpy as np
import pytest

from mcl_hf.errors import InputError
from mcl_hf.viz.curves import curves_picture, read_log, summarise
from mcl_hf.viz.precision_recall import precision_recall_picture


def contrastive_records(steps: int = 4, slope: float = 1.0) -> list[dict]:
    return [
        {
            "step": 10 * number,
            "loss": 8 - slope * number,
            "level_losses": [[1.0, 1.2], [0.5, 0.4]],
            "positive_similarity": [[0.1 * number, 0.1 * number + 0.02], [0.3, 0.3]],
            "negative_similarity": [[0.2, 0.2], [0.1, 0.1]],
            "feature_std": [[0.12, 0.12], [0.11, 0.11]],
            "learning_rate": 1e-3 * number,
            "grad_norm": None if number == 2 else 3.0,
            "images_per_second": [10.0, 20.0, 30.0, 400.0][number % 4],
            "data_wait_share": 0.05,
            "seconds": 1000.4 * number,
            "broken_images": 0,
        }
        for number in range(1, steps + 1)
    ]


def write_log(folder, records, tail: str = ""):
    folder.mkdir(exist_ok=True)
    (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records) + tail)
    return folder


def test_log_is_read_from_folder_or_file_and_a_torn_last_line_is_left_out(tmp_path):
    records = contrastive_records()
    folder = write_log(tmp_path / "run", records, tail='{"step": 50, "lo')
    assert read_log(folder) == records == read_log(folder / "log.jsonl")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "there is no log at .*log.jsonl"),
        ("", "is empty"),
        ('{"step": 1}\nnonsense\n{"step": 2}\n', "line 2 is no record"),
        ("[1, 2]\n", "line 1 is no record"),
    ],
)
def test_unusable_logs_are_refused_with_their_name(tmp_path, text, said):
    if text is not None:
        (tmp_path / "log.jsonl").write_text(text)
    with pytest.raises(InputError, match=said):
        read_log(tmp_path)


def test_summary_has_the_last_numbers_as_means_over_sides():
    row = summarise(contrastive_records())
    assert row["steps"] == "40" and row["loss"] == "7.000 -> 4.000"
    assert row["positive cosine by level"] == "0.410 0.300"
    assert row["images/s"] == "25.0"  # the median of 20, 30, 400, 10
    assert row["data wait"] == "5 %" and row["time"] == "1:06:42"
    assert "accuracy by level" not in row and "broken images" not in row


def colours(picture) -> set[tuple[int, int, int]]:
    return {colour for _, colour in picture.getcolors(maxcolors=1 << 20)}


def test_one_run_shows_every_level_and_several_runs_one_line_each(tmp_path):
    one = write_log(tmp_path / "one", contrastive_records())
    two = write_log(tmp_path / "two", contrastive_records(slope=0.5))
    out = tmp_path / "curves.png"
    picture = curves_picture(one, out)
    assert out.stat().st_size > 10_000 and picture.mode == "RGB"
    level_0, level_1, level_2 = (0x2B, 0x6C, 0xB0), (0xD9, 0x82, 0x2B), (0x2F, 0x85, 0x5A)
    assert {level_0, level_1} <= colours(picture) and level_2 not in colours(picture)
    both = curves_picture([one, two / "log.jsonl"])
    assert both.tobytes() != picture.tobytes() and {level_0, level_1} <= colours(both)


def test_supervised_and_single_record_logs_are_drawn(tmp_path):
    supervised = [
        {"step": step, "loss": 5.0 / step, "level_losses": [1.0, 0.5], "accuracy": [0.1 * step, 0.2]}
        for step in range(1, 4)
    ]
    curves_picture(write_log(tmp_path / "supervised", supervised))
    curves_picture(write_log(tmp_path / "short", contrastive_records(steps=1)))
    assert summarise(supervised)["accuracy by level"] == "0.300 0.200"


def with_health(records: list[dict]) -> list[dict]:
    """The numbers of a run's health and of its probes, in every other record."""
    for number, record in enumerate(records):
        record |= {"random_losses": [[1.5, 1.5], [0.5, 0.5]], "effective_rank": [[9.0, 11.0], [3.0, 3.0]]}
        record |= {"target_distance": 0.0625}
        if number % 2:
            record |= {"probe/knn": 0.5, "probe/linear": 0.75, "probe/chance": 0.25, "health": ["collapse: why"]}
    return records


def test_health_and_probes_are_in_the_table():
    row = summarise(with_health(contrastive_records()))
    assert row["loss of a random network"] == "4.000" and row["effective rank by level"] == "10.0 3.0"
    assert row["distance of the target"] == "0.062"
    assert row["probe: kNN classes"] == "50.0 %" and row["probe: chance"] == "25.0 %"
    assert "probe: same level" not in row
    assert row["health"] == "step 20: collapse, step 40: collapse"


def test_health_and_probes_are_drawn_and_what_is_absent_has_no_panel(tmp_path):
    plain = write_log(tmp_path / "plain", contrastive_records())
    rich = write_log(tmp_path / "rich", with_health(contrastive_records()))
    few, many = curves_picture(plain), curves_picture(rich)
    assert many.height > few.height  # rows for rank, distance, probes
    red = [any(r > 150 and max(g, b) < 90 for r, g, b in colours(picture)) for picture in (few, many)]
    assert red == [False, True]  # where it collapsed
    without = [{name: value for name, value in one.items() if name != "random_losses"} for one in read_log(rich)]
    assert curves_picture(write_log(tmp_path / "rich", without)).tobytes() != many.tobytes()  # its dashed line
    curves_picture([plain, rich])


def test_runs_of_equal_folder_names_are_told_apart(tmp_path):
    from mcl_hf.viz.curves import _run_names

    for parent in ("x", "y"):
        (tmp_path / parent).mkdir()
        write_log(tmp_path / parent / "run", contrastive_records())
    names = _run_names([tmp_path / "x" / "run", tmp_path / "y" / "run"])
    assert [re.sub(r"\\", "/", name) for name in names] == ["x/run", "y/run"]


def test_a_detectors_losses_and_figures_are_shown(tmp_path):
    records = [
        {"step": step, "loss": 2.0 / step, "loss_classifier": 1.0 / step, "loss_mask": 0.5, "learning_rate": 0.02}
        for step in (1, 2, 3)
    ]
    records[1] |= {"eval/box/AP": 0.25, "eval/box/AP50": 0.5}
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert summarise(read_log(log))["box AP"] == "25.0 at step 2"
    with_figures = curves_picture(log)
    log.write_text("".join(json.dumps({"step": r["step"], "loss": r["loss"]}) + "\n" for r in records))
    assert curves_picture(log).size[1] < with_figures.size[1]  # fewer panels


def test_names_that_no_font_has_are_drawn_without_a_word(recwarn):
    recalls = np.linspace(0, 1, 5)
    curves = dict.fromkeys(("red\x1b[31m", "nul\0", "half\ud800", "\u732b", "$x"), 1 - recalls)
    assert precision_recall_picture({"box": curves}, recalls).size == (640, 480)
    assert not recwarn.list


def test_a_name_that_begins_with_an_underscore_is_in_the_legend():
    recalls = np.linspace(0, 1, 5)
    hidden, shown = ({"box": {name: 1 - recalls}} for name in ("_background_", " _background_"))
    drawn = precision_recall_picture(hidden, recalls)
    assert drawn.tobytes() == precision_recall_picture(shown, recalls).tobytes()
