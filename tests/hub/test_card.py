"""Cards say what was recorded, all of it, and of everything else that it is absent."""

import getpass
import json
import math
import re
import shlex
import shutil
import socket
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from mcl_hf.cli.pretrain import build_parser, read_arguments
from mcl_hf.detectors.configuration_detector import MCLDetectorConfig
from mcl_hf.engine.state import RECORD, TrainingState
from mcl_hf.errors import InputError
from mcl_hf.finetuning.arguments import load_finetune_arguments
from mcl_hf.hub.bundle import write_space
from mcl_hf.hub.card import check_card, render_card
from mcl_hf.hub.card_data import read_recorded
from mcl_hf.hub.metadata import licence_fields
from mcl_hf.hub.run_command import run_command
from mcl_hf.version import __version__

GOLDEN = Path(__file__).with_name("card_of_a_tiny_run.md")
MACHINE = {
    "device": "a processor", "kind": "cpu", "cpu": "a processor", "cores": 2, "system": "Linux", "python": "3.11.0",
    "packages": {"mcl_hf": "0.0.0", "torch": "2.0.0"}, "from_step": 0,
}  # fmt: skip


def edit(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_log(folder: Path, change) -> None:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    for line in lines:
        change(line)
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def folder(run: Path, tmp_path: Path) -> Path:
    """A copy of the run's folder, less its weights, with everything fixed that time and machine decide."""
    copy = tmp_path / "tiny"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("*.safetensors", "pictures"), symlinks=True)

    def fix_state(state):
        state |= {"seconds": 8.4, "versions": {"torch": "2.0.0"}, "machines": [MACHINE]}

    def fix_line(line):
        step = line["step"]
        by_level = {"level_losses": 0.5 / step, "random_losses": 0.4, "positive_similarity": 0.1 * step,
                    "negative_similarity": 0.01, "feature_std": 0.3, "effective_rank": 4.0}  # fmt: skip
        line |= {name: [[value, value]] * 3 for name, value in by_level.items()}
        line |= {"loss": 3.0 / step, "grad_norm": 1.5, "target_distance": 0.01 * step, "images_per_second": 10.0 * step,
                 "peak_memory_gib": 0.5, "seconds": 2.0 * step}  # fmt: skip

    for path in copy.rglob(RECORD):
        if not path.parent.is_symlink():
            edit(path, fix_state)
    edit_log(copy, fix_line)
    return copy


def make_detector(folder: Path, **state) -> Path:
    """A fine-tuned detector as far as a card reads it: after 4 of 4 steps, seed 3, AP measured twice."""
    folder.mkdir(parents=True)
    config = MCLDetectorConfig(detector="mask_rcnn", backbone="resnet18", id2label={0: "cup", 1: "a|fork_*"})
    (folder / "config.json").write_text(config.to_json_string(use_diff=False))
    options = {"init": "user/start", "data": "/home/carol/coco", "seed": 3, "max_steps": 4, "epochs": None}
    arguments = load_finetune_arguments("coco-maskrcnn-r50-fpn-1x", **options)
    source = {"kind": "hub", "name": "user/set", "licence": "cc-by-4.0"}
    values = {
        "step": 4, "max_steps": 4, "images_seen": 64, "seconds": 8.0, "global_batch_size": 16, "task": "fine-tuning",
        "arguments": asdict(arguments), "recipe": arguments.recipe, "machines": [MACHINE],
        "start": {"kind": "hub", "name": "user/start@v1", "repository": "user/start"},
        "data": {"num_images": 32, "num_objects": 99, "sources": [source],
                 "validation": {"sources": [source], "split": "val", "num_images": 8, "num_objects": 20}},
    }  # fmt: skip
    (folder / RECORD).write_text(json.dumps(asdict(TrainingState(**{**values, **state}))))
    lines = [
        {"step": step, "loss": 4.0, "eval/box/AP": ap, "eval/box/AP50": ap + 0.1, "eval/mask/AP": ap - 0.1}
        for step, ap in ((2, 0.5), (4, 0.4))
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def sections(text: str) -> dict[str, str]:
    return {part.split("\n")[0]: part for part in re.split(r"^#{2,3} ", text, flags=re.MULTILINE)[1:]}


# --- a run ------------------------------------------------------------------------------------------------------------


def test_the_whole_card_of_a_run(folder):
    text = render_card(folder, pictures=folder)
    check_card(text)
    expected = GOLDEN.read_text(encoding="utf-8").replace("VERSION", __version__)
    assert text == expected, f"if this is meant, write the new text to {GOLDEN.name}"
    assert (folder / "pictures" / "training.png").stat().st_size > 10_000


def test_a_card_names_no_host_no_person_and_no_path(run, folder, tmp_path):
    metrics = tmp_path / "ev" / "metrics.json"
    metrics.parent.mkdir()
    metrics.write_text(json.dumps({"checkpoint": str(tmp_path / "det"), "data": "/home/carol/coco/a.json", "box": {}}))
    for text in (
        render_card(run, evaluations=[metrics]),
        render_card(folder / "checkpoints" / "last"),
        render_card(make_detector(tmp_path / "det", start={"kind": "folder", "name": "mine"})),
    ):
        for private in (
            str(tmp_path),
            str(run.parent),
            "/home",
            "carol",
            socket.gethostname(),
            getpass.getuser() + "/",
        ):
            assert private not in text, private


def test_the_command_of_a_card_gives_the_options_of_the_run(folder):
    recorded = read_recorded(folder)
    words = shlex.split(run_command(recorded))
    assert words[:2] == ["mcl-hf", "pretrain"] and "photos" in words
    again = asdict(read_arguments(build_parser("test", "").parse_args(words[2:])))
    own = {
        "output_dir",
        "data",
        "save_every_steps",
        "num_workers",
        "log_every_steps",
    }  # names, and what changes nothing
    assert {name: value for name, value in again.items() if name not in own} == {
        name: value for name, value in recorded.arguments.items() if name not in own
    }


def test_what_an_older_run_did_not_record_is_said_to_be_absent(folder):
    def forget(state):
        for name in ("recipe", "start", "machines", "versions"):
            del state[name]
        del state["data"]["sources"]

    for path in (folder / RECORD, folder / "checkpoints" / "last" / RECORD):
        edit(path, forget)
    (folder / "log.jsonl").unlink()
    text = render_card(folder, pictures=folder)
    for told in (
        "| data | source not recorded: 12 images |",
        "| licence of the data | licence not recorded |",
        "| hardware | not recorded; 1 process |",
        "| speed | not recorded |",
        "| peak memory of the main process | not recorded |",
        "| software | not recorded |",
        "Whether a recipe was used is not recorded.",
        "No log of the run was found, so there are no curves.",
        "No log was found, so no loss or health number of the run is known.",
        "None. How well it transfers to detection was not measured.",
    ):
        assert told in text, told
    assert "--max-steps 3" in text and not (folder / "pictures").exists()


def test_of_a_run_that_left_only_a_log_the_log_is_told(folder):
    for path in list(folder.rglob(RECORD)):
        path.unlink()
    edit_log(folder, lambda line: line.update({"health": ["collapse: all alike"]} if line["step"] == 3 else {}))
    text = render_card(folder, pictures=folder)
    check_card(text)
    for told in (
        "The options of the run, its data and what it started from are not recorded: `training_state.json` is missing.",
        "| steps in the log | 1 to 3 |",
        "| duration | 6 s |",
        "| speed | 20.0 images/s, median |",
        "| loss | 3.0000 at step 1, 1.0000 at step 3 |",
        "![Curves of the run](pictures/training.png)",
        "Warning of the run at step 3: collapse: all alike",
        "What trained these weights, on what data and under what terms, is not recorded here.",
    ):
        assert told in text, told
    assert "How it was trained is not recorded." not in text and "### Recipe" not in text
    assert "| steps in the log | 1 to 2 |" in render_card(folder / "checkpoints" / "step-00000002")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("demo", "Recipe `demo` with these"),
        ("own.yaml", "A recipe of its own (`own.yaml`, none of mcl_hf's) with these"),
        ("mcl-r999", "A recipe that this release of mcl_hf does not have (`mcl-r999`) with these"),
    ],
)
def test_only_recipes_that_there_are_are_called_recipes_of_ours(folder, name, told):
    edit(folder / RECORD, lambda state: state["recipe"].update({"name": name}))
    recipe = sections(render_card(folder))["Recipe"]
    assert told in recipe and f"--recipe {name} " in recipe


def test_a_log_that_begins_late_is_said_to(folder):
    assert "The log begins" not in render_card(folder)
    lines = (folder / "log.jsonl").read_text().splitlines(keepends=True)
    (folder / "log.jsonl").write_text(lines[2])
    text = render_card(folder)
    assert "The log begins at step 3: where the run went on from an earlier checkpoint, the log before that" in text
    record = {"resume": "carol/net@v1", "commit": "0", "checkpoint": "step-00000002"}
    (folder / "checkpoints" / "fetched.json").write_text(json.dumps(record))
    text = render_card(folder)
    assert "The log begins at step 3: the run went on from step 2 of `carol/net@v1`." in text
    (folder / "log.jsonl").write_text("".join(lines))
    assert "The log begins" not in render_card(folder)


def test_a_broken_line_of_the_log_is_named_and_a_torn_last_one_is_left_out(folder):
    lines = (folder / "log.jsonl").read_text().splitlines(keepends=True)
    (folder / "log.jsonl").write_text(f"{lines[0]}\n{{broken\n{lines[2]}")
    with pytest.raises(InputError, match=r"log\.jsonl, line 3 is no record of a run \(Expecting property name"):
        render_card(folder)
    (folder / "log.jsonl").write_text(lines[0] + lines[1] + lines[2][:20])
    assert "1.5000 at step 2 |" in render_card(folder)


def test_a_record_of_another_kind_is_one_line(folder):
    edit(folder / RECORD, lambda state: state.update({"recipe": []}))
    with pytest.raises(InputError, match="training_state.json is damaged: recipe must be a mapping"):
        render_card(folder)


def test_numbers_that_are_not_finite_are_said_to_be_so(folder):
    def spoil(line):
        if line["step"] > 1:
            line |= {"loss": None, "grad_norm": None, "feature_std": [[None, None]] * 3}

    edit_log(folder, spoil)
    text = render_card(folder)
    assert "| loss | 3.0000 at step 1, not finite at step 3 |" in text
    assert "| gradient norm before clipping | not recorded |" in text
    assert "| feature std by level | not recorded not recorded not recorded |" in text
    assert "The loss was not finite at 2 logged steps, the first of them 2." in text


def test_warnings_and_other_machines_are_limits(folder):
    edit_log(folder, lambda line: line.update({"health": ["collapse: the embeddings are *one* point"]}))
    other = {**MACHINE, "device": "a GPU", "kind": "cuda", "from_step": 2}
    edit(folder / RECORD, lambda state: state.update({"machines": [MACHINE, other], "broken_images": 2}))
    text = render_card(folder)
    assert r"Warning of the run at step 1: collapse: the embeddings are \*one\* point" in text
    assert "| hardware | from step 2: a GPU for each process; a processor, 2 cores; 1 process |" in text
    assert "on another machine or with other releases" in text and "2 images could not be read" in text


def test_data_and_licences_as_given_take_the_place_of_what_is_recorded(folder):
    text = render_card(folder, data_name="My _photos_", data_license="cc-by-4.0", license="other")
    assert r"| data | My \_photos\_: 12 images |" in text and "| licence of the data | cc-by-4.0 |" in text
    assert ModelCard(text).data.license == "other"
    two = [{"kind": "hub", "name": "a/b", "licence": "mit"}, {"kind": "files", "name": "own", "licence": None}]
    edit(folder / RECORD, lambda state: state["data"].update({"sources": two}))
    text = render_card(folder)
    assert "| licence of the data | mit (a/b); licence of own not recorded |" in text
    assert ModelCard(text).data.datasets == ["a/b"]
    with pytest.raises(InputError, match="no identifier of the Hub"):
        render_card(folder, license="My Licence")


def test_levels_that_no_montage_is_read_from_are_limits(folder):
    levels = {"montage_ratios": [1, 4], "montage_fractions": [1, 0.25], "level_weights": [0.5, 0.5]}
    edit(folder / "config.json", lambda config: config.update(levels))
    assert "* P4 and P2 of the pyramid took no part in the loss." in render_card(folder)


def test_a_supervised_run_says_so(folder):
    edit(folder / RECORD, lambda state: state["arguments"].update({"objective": "supervised"}))
    text = render_card(folder)
    assert "pre-trained with labels by" in text and "| method | supervised MCL: every tile classified" in text
    assert "The published code does not contain supervised MCL" in text
    assert "supervised-pre-training" in ModelCard(text).data.tags


def test_checkpoints_and_the_whole_model(folder):
    text = render_card(folder / "checkpoints" / "step-00000002")
    assert text.split("\n# ")[1].startswith("tiny/checkpoints/step-00000002") and "| steps | 2 of 3 |" in text
    assert "A checkpoint of step 2 of 3: the run had not ended." in text and "1.5000 at step 2 |" in text
    whole = render_card(folder / "pretraining")
    assert 'MCLForPreTraining.from_pretrained("tiny/pretraining")' in whole and "had not ended" not in whole
    for path in (folder / "config.json", folder / RECORD):  # a run that has not finished gives its last checkpoint
        path.unlink()
    assert "| steps | 3 of 3 |" in render_card(folder)


def test_doors_of_a_published_model(folder):
    text = render_card(folder, repository="carol/net", with_timm=True, with_code=True)
    assert "maps = dict(features_only=True, out_indices=(1, 2, 3, 4))  # C2..C5\n" in text
    assert 'timm.create_model("hf-hub:carol/net-timm", pretrained=True, **maps)\n' in text
    assert 'AutoModel.from_pretrained("carol/net", trust_remote_code=True)' in text
    assert 'AutoBackbone.from_pretrained("carol/net")' in text
    plain = render_card(folder, repository="carol/net")
    assert "hf-hub" not in plain and "trust_remote_code" not in plain and "--to timm net-timm" in plain
    assert text.count("mcl_hf is installed by `pip install .` in a clone of its source.") == 1
    assert "pretraining" not in sections(text)["mcl_hf"] and "The command writes graphs, and" in plain
    assert "--to detectron2" not in plain and "no names for the layers of this resnet10t" in plain
    resnet = {"backbone": "resnet50", "backbone_kwargs": {"zero_init_last": False}}  # which changes no layer
    edit(folder / "config.json", lambda config: config.update(resnet))
    assert "mcl-hf export carol/net --to detectron2 net-detectron2" in render_card(folder, repository="carol/net")


def test_a_backbone_that_no_other_framework_takes_has_no_door_to_one(folder):
    options = {"backbone": "swin_tiny_patch4_window7_224", "backbone_kwargs": {}}
    edit(folder / "config.json", lambda config: config.update(options))
    text = render_card(folder)
    assert "### Without mcl_hf: timm" in text and "--to onnx" not in text
    assert not re.search(r"^### *$", text, re.MULTILINE) and "writes ," not in text


def test_a_card_that_is_refused_leaves_no_pictures(folder, tmp_path):
    for options, said in (({"license": "My Own"}, "no identifier"), ({"pictures_of_data": True}, "has no pictures")):
        with pytest.raises(InputError, match=said):
            render_card(folder, pictures=tmp_path / "new", **options)
        assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("start", "base", "told"),
    [
        ({"kind": "timm", "name": "resnet18", "repository": "timm/resnet18.a1_in1k"}, "timm/resnet18.a1_in1k",
         "| started from | timm's `resnet18` |"),
        ({"kind": "hub", "name": "a/b@v1", "repository": "a/b"}, "a/b", "| started from | `a/b@v1` of the Hub |"),
        ({"kind": "folder", "name": "moco"}, None, "the folder `moco`, of which no run is recorded"),
        ({"kind": "folder", "name": "r", "run": {"task": "pre-training", "objective": "contrastive", "steps": 9,
          "data": ["x"], "start": {"kind": "hub", "name": "a/b", "repository": "a/b"}}}, "a/b",
         "the run `r`: pre-training, contrastive, 9 steps on x, from `a/b`"),
    ],
)  # fmt: skip
def test_starts(folder, start, base, told):
    edit(folder / RECORD, lambda state: state.update({"start": start}))
    text = render_card(folder)
    assert told in text and ModelCard(text).data.base_model == base
    assert ("whose own terms and data apply as well" in text) == ("run" not in start)


def test_names_with_markdown_in_them_break_nothing(folder, tmp_path):
    odd = tmp_path / "a|b_*x*`y` <i> $z$"
    folder.rename(odd)
    edit(odd / RECORD, lambda state: state["data"]["sources"][0].update({"name": "p|q\n# no `heading`"}))
    edit(odd / RECORD, lambda state: state["recipe"].update({"name": "own|`recipe`.yaml"}))
    text = render_card(odd, title="# T|`i`\ntle", pictures=odd)
    check_card(text)
    assert "\n# \\# T|\\`i\\` tle\n" in text and "# no" not in re.findall(r"^#.*", text, re.MULTILINE)
    assert r"p\|q \# no \`heading\`: 12 images" in text and "`` own|`recipe`.yaml ``" in text
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(cells) == 1, table
    assert 'from_pretrained("a|b_*x*`y` <i> $z$")' in text
    assert shlex.split(re.search(r"^mcl-hf pretrain .*$", text, re.MULTILINE)[0])[-1] == odd.name


def test_pictures_only_when_asked_and_of_data_only_when_asked_for(folder, tmp_path, monkeypatch):
    (folder / "pictures").mkdir()
    (folder / "pictures" / "montages.png").write_bytes(b"images of the data")
    out = tmp_path / "out"
    assert "No curves were drawn with this card." in render_card(folder) and "![" not in render_card(folder)
    assert re.findall(r"!\[.*\]\((.*)\)", render_card(folder, pictures=out)) == ["pictures/training.png"]
    assert [path.name for path in (out / "pictures").iterdir()] == ["training.png"]
    text = render_card(folder, pictures=out, pictures_of_data=True)
    assert "(pictures/montages.png)" in text and (out / "pictures" / "montages.png").exists()
    monkeypatch.setattr("mcl_hf.hub.card.find_spec", lambda name: None)
    assert "matplotlib, which was not installed" in render_card(folder, pictures=tmp_path / "bare")
    shutil.rmtree(folder / "pictures")
    with pytest.raises(InputError, match="has no pictures of its data"):
        render_card(folder, pictures=out, pictures_of_data=True)


# --- detectors and evaluations ----------------------------------------------------------------------------------------


def test_a_detector_has_its_protocol_its_figures_and_a_model_index(tmp_path):
    text = render_card(make_detector(tmp_path / "det"))
    check_card(text)
    parts = sections(text)
    for told in (
        "| detector | Mask R-CNN on `resnet18` with FPN of 256 channels; box head of 4 convolutions and one fully "
        "connected layer, mask head of 4 convolutions |",
        "| started from | `user/start@v1` of the Hub |",
        "statistics anew from 200 training batches before evaluation |",
        "| image size | shorter side 640 to 800 px in training, 800 px in evaluation; longer side at most 1,333 px |",
        "| schedule | 4 steps of 16 images, learning rate a tenth from steps 3 and 4 on, warm-up of 1,000 steps |",
        r"| classes | 2: cup, a\|fork\_\* |",
        "| data | user/set: 32 images with 99 objects |",
    ):
        assert told in parts["Training"], told
    assert "Recipe `coco-maskrcnn-r50-fpn-1x` with these options changed" in parts["Recipe"]
    row = "| `det` | user/set, val: 8 images, 20 objects | 40.0 | 50.0 | not measured | 30.0 | not measured |"
    assert f"{row} not measured | 1 (3) |" in parts["Detection"]
    card = ModelCard(text)
    assert (card.data.pipeline_tag, card.data.base_model) == ("object-detection", "user/start")
    found = {result.metric_type: result for result in card.data.eval_results}
    assert set(found) == {"box_ap", "box_ap50", "mask_ap"} and found["box_ap"].metric_value == 40.0
    assert (found["box_ap"].dataset_type, found["box_ap"].dataset_split) == ("user/set", "val")


def test_weights_chosen_by_their_ap_have_that_ap_and_say_so(tmp_path):
    options = asdict(load_finetune_arguments(init="random", early_stopping_patience=2, eval_every_steps=2))
    folder = make_detector(tmp_path / "det", arguments=options, best={"eval_AP": 0.5, "eval_step": 2})
    text = render_card(folder)
    assert "| steps | 2 (the best of 4) |" in text and "| 50.0 | 60.0 |" in text and "flatters them" in text


def test_a_detector_that_was_not_measured(tmp_path):
    folder = make_detector(tmp_path / "det")
    (folder / "log.jsonl").unlink()
    text = render_card(folder)
    assert "None. Its AP was not measured." in text and "A measurement of AP." in text
    assert ModelCard(text).data.eval_results is None


def test_evaluations_of_other_runs_bring_their_protocol(folder, tmp_path):
    state = json.loads((folder / RECORD).read_text())
    of_this = {"steps": state["step"], "images_seen": state["images_seen"], "task": "pre-training", "data": ["x"]}
    start = {"kind": "folder", "name": "tiny", "run": of_this}
    mine, other = make_detector(tmp_path / "mine", start=start), make_detector(tmp_path / "other")
    for detector in (mine, other):
        (detector / "evaluation").mkdir()
        figures = {"AP": 0.25, "AP50": math.nan, "AP75": None, "per_class": {}}
        content = {
            "run": str(detector),
            "step": 4,
            "seed": 3,
            "backend": "faster-coco-eval",
            "images": 8,
            "box": figures,
        }
        (detector / "evaluation" / "metrics.json").write_text(json.dumps(content))
    files = [detector / "evaluation" / "metrics.json" for detector in (mine, other, mine)]
    text = render_card(folder, evaluations=files)
    assert text.count("| `mine`, fine-tuned from this model | user/set, val: 8 images") == 1
    assert "| `other` (another model) |" in text and "| 25.0 | not measured | not measured | 1 (3) |" in text
    assert "Protocol of `mine`:\n\n| | |" in text and "AP by faster-coco-eval." in text and "--output-dir mine" in text
    [result] = ModelCard(text).data.eval_results  # not of the other one, and no NaN
    assert result.metric_value == 25.0 and "fine-tuned from it" in result.metric_name


def comparison(start):
    """comparison.json of two starts."""

    def mean(name, value, sd, seeds):
        return {"start": name, "images": "25", "figure": "box/AP", "mean": value, "sd": sd, "seeds": seeds}

    data = {"images": 8, "objects": 21, "fingerprint": "ab12"}
    return {
        "starts": {start: None, "random": None}, "inits": {start: start, "random": "random"}, "counts": {"25": 25},
        "unit": "labelled images", "data": {"train": data, "test": {**data, "fingerprint": "cd34"}},
        "finetune": "faster_rcnn, 8 images a step", "warnings": [f"{start} trained for longer"], "failed": {},
        "answer": {
            "sentence": f"With 25 labelled images {start} is above random.",
            "means": [mean(start, 40.0, 14.14, [0, 1]), mean("random", 20.0, None, [0])],
        },
    }  # fmt: skip


def test_a_comparison_names_means_with_their_spread_and_its_data(folder, tmp_path):
    content = comparison(str(folder))
    path = tmp_path / "cmp" / "comparison.json"
    path.parent.mkdir()
    path.write_text(json.dumps(content))
    text = render_card(folder, evaluations=[path])
    assert "With 25 labelled images tiny is above random." in text and "Beware: tiny trained for longer." in text
    assert "| 25 labelled images | `tiny` (this model) | 40.0 ± 14.1 | 2 (0 and 1) |" in text
    assert "| 25 labelled images | `random` | 20.0 | 1 (0) |" in text and str(tmp_path) not in text
    assert "test: 8 images, 21 objects, digest of the annotations `cd34`" in text and "mcl-hf compare plan.yaml" in text
    assert "* More than one seed." not in text and "A comparison with random" not in text
    [result] = ModelCard(text).data.eval_results
    assert result.metric_value == 40.0 and "with 25 labelled images, mean of 2 seeds" in result.metric_name
    del content["data"]["test"]["fingerprint"]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"comparison.json is damaged: KeyError 'fingerprint'"):
        render_card(folder, evaluations=[path])


def test_probes(folder):
    feature = {"knn": {"all": 0.5}, "linear": {"all": None}}
    numbers = {"chance": 0.25, "images": 8, "features": dict.fromkeys(("region_head", "embedding", "c5"), feature)}
    probed = [{"network": name, "objects": numbers, "views": None} for name in ("random", str(folder))]
    (folder / "probe.json").write_text(json.dumps(probed))
    text = render_card(folder, evaluations=[folder / "probe.json"])
    assert text.count("| `tiny` (this model) | region head | 50.0 | not measured |") == 1
    assert text.index("`tiny` (this model)") < text.index("| `random` | region head")
    assert "classes of annotated objects: 8 images; chance is 25.0 %" in text and "found, same level" not in text
    last = {"probe/same_level": 0.4, "probe/chance": 0.1}
    edit_log(folder, lambda line: line.update(last if line["step"] == 2 else {}))
    assert "At step 2, of the region head's features" in render_card(folder)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"loss": 1}', "3"])
def test_a_file_that_is_no_result_is_one_line(folder, tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(InputError, match=r"x.json is no (JSON|result)"):
        render_card(folder, evaluations=[tmp_path / "x.json"])


# --- imports, and what is no model ------------------------------------------------------------------------------------


def test_an_imported_checkpoint_says_what_it_came_from(folder, tmp_path):
    out = tmp_path / "moco"
    out.mkdir()
    shutil.copyfile(folder / "config.json", out / "config.json")
    bare = render_card(out)
    assert (
        "How it was trained is not recorded." in bare
        and ModelCard(bare).data.license is None
        and "No licence of the weights is claimed" in bare
    )
    content = {"file": "moco|v2.pth", "sha256": "ab12", "layout": "MoCo", "remarks": ["left out: 2 tensors"],
               "parts": {"backbone": [9, 9], "FPN": [0, 4]}, "mcl_hf": "0.1.0"}  # fmt: skip
    (out / "imported_from.json").write_text(json.dumps(content))
    text = render_card(out)
    check_card(text)
    assert "Not trained here: no run is recorded." in text and r"| file | `moco\|v2.pth` |" in text
    assert "backbone 9/9, FPN 0/4 (new, random)" in text
    assert "Only a part of the network; not in it, and random: FPN." in text
    assert "steps" not in sections(text)["Training"] and "Trained once" not in text


def test_what_is_no_model_is_one_line(tmp_path):
    with pytest.raises(InputError, match="there is no folder"):
        render_card(tmp_path / "absent")
    with pytest.raises(InputError, match=r"no config.json"):
        render_card(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InputError, match="no model of mcl_hf"):
        render_card(tmp_path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("license: [apache-2.0", "does not parse"),
        ("model-index: {}", "header"),
    ],
)  # fmt: skip
def test_cards_whose_header_cannot_be_read_are_one_line(header, message):
    with pytest.raises(InputError, match=message) as caught:
        check_card(f"---\n{header}\n---\n\n# x\n")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no header"):
        check_card("# x\n")


def test_the_header_is_plain_yaml(folder):
    header = yaml.safe_load(render_card(folder).split("---\n")[1])
    assert set(header) == {"library_name", "pipeline_tag", "tags"}  # nothing that is not known


def test_the_whole_card_of_a_detector(tmp_path):
    expected = GOLDEN.with_name("card_of_a_tiny_detector.md").read_text(encoding="utf-8")
    text = render_card(make_detector(tmp_path / "det"))
    assert text == expected.replace("VERSION", __version__), "if this is meant, write the new text to the file"


def test_a_licence_is_claimed_only_where_it_is_given(folder, tmp_path):
    for place in (folder, make_detector(tmp_path / "det")):
        text = render_card(place)
        assert ModelCard(text).data.license is None and "`--license` of `mcl-hf card` and `mcl-hf push`" in text
        given = render_card(place, license="mit")
        assert ModelCard(given).data.license == "mit" and "The weights are under `mit`; the data" in given


def test_the_licence_of_a_start_is_told_or_that_there_is_none(folder):
    for start, words in [
        ({"kind": "torchvision", "name": "x", "licence": None}, "torchvision states no licence of these weights."),
        ({"kind": "torchvision", "name": "x"}, "they are not recorded."),  # of a run before it was looked up
        ({"kind": "hub", "name": "user/x", "repository": "user/x"}, "they are not recorded."),
        ({"kind": "hub", "name": "user/x", "licence": "gemma"}, "weights under the licence `gemma`, whose terms go"),
    ]:
        edit(folder / RECORD, lambda state, start=start: state.update(start=start))
        assert words in render_card(folder)
    with pytest.raises(InputError, match="'mit' is not yours to give"):
        render_card(folder, license="mit")


def test_a_space_names_a_licence_as_its_model_does(tmp_path):
    licence = licence_fields(TrainingState(start={"licence": "dinov3-license"}), "dinov3-license")
    write_space(tmp_path / "space", "alice/net", "a page", licence)
    header = ModelCard((tmp_path / "space" / "README.md").read_text(), ignore_metadata_errors=True).data
    assert (header.license, header.license_name) == ("other", "dinov3-license")  # the Hub takes no other identifiers


def test_history_of_options_and_what_auto_froze_are_told(folder):
    data = {"before": "/home/carol/a", "now": "b"}
    change = {"from_step": 2, "options": {"seed": {"before": 0, "now": 7}, "data": data}}

    def resumed(state):
        state["changes"] = [change]
        state["recipe"] = {"name": "auto", "changed": [], "auto": {"chosen": {}, "freezing": "nothing is frozen"}}

    edit(folder / RECORD, resumed)
    text = render_card(folder)
    assert "| changed after step 2 | `seed` 0, then 7; `data` a, then b |" in text and "carol" not in text
    assert "| by the rules of auto | nothing is frozen |" in text
