"""`mcl-hf push` with the real client against the tests' Hub: what a release holds, and that nothing is done twice."""

import json
import re
import shlex
import shutil
import threading
import time
from pathlib import Path

import pytest
import torch
import yaml

import mcl_hf
from mcl_hf import MCLDetectorConfig, MCLForInstanceSegmentation, MCLImageProcessor
from mcl_hf.hub.card_data import read_recorded

SLIM = ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"]
RECORD = ["log_summary.json", "training_arguments.json"]
CUT_OFF = """
import os, signal, sys, threading, time
from mcl_hf.cli import main
import mcl_hf.cli.push
from tests.hub_client import ROOT
signal.signal(signal.SIGINT, signal.default_int_handler)
def cut():
    while not os.path.exists({marker!r}):
        time.sleep(0.02)
    os.kill(os.getpid(), signal.{name})
threading.Thread(target=cut, daemon=True).start()
sys.argv = ["mcl-hf", "push", {run!r}, "alice/net"]
sys.exit(main())
"""


def files_of(hub, name="alice/net", revision="main"):
    found = hub.store.repos["model", name].commit(revision).files
    return sorted(path for path in found if path != ".gitattributes" and not path.endswith(".png"))


def pictures_of(hub, name="alice/net"):
    return sorted(path for path in hub.store.repos["model", name].commit().files if path.endswith(".png"))


def titles(hub, name="alice/net"):
    """Of its commits, the newest first, without the one that made it."""
    return [one.title for one in hub.store.repos["model", name].history()][:-1]


def tags(hub, name="alice/net"):
    repo = hub.store.repos["model", name]
    return {ref.removeprefix("refs/tags/"): oid for ref, oid in repo.refs.items() if ref.startswith("refs/tags/")}


def test_a_run_is_published_in_one_commit_with_a_tag_and_opens_bit_for_bit(hub, command, client, run):
    done = command("push", str(run), "alice/net", token="hf_alice")
    assert done.code == 0, done.text
    assert files_of(hub) == sorted([*SLIM, *RECORD]) and pictures_of(hub) == ["pictures/training.png"]
    repo = hub.store.repos["model", "alice/net"]
    assert len(titles(hub)) == 1 and titles(hub)[0].startswith("v1 (mcl_hf ") and repo.private
    assert tags(hub) == {"v1": repo.oid_of("main")}
    assert hub.store.read("alice/net", "model.safetensors") == (run / "model.safetensors").read_bytes()
    opened = client(
        f"""
import torch, mcl_hf
ours, theirs = (mcl_hf.MCLModel.from_pretrained(name) for name in ({str(run)!r}, "alice/net"))
assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True))
""",
        token="hf_alice",
    )
    assert opened.code == 0, opened.text


def test_the_record_names_no_folder_and_no_data_of_the_machine(hub, command, run):
    assert command("push", str(run), "alice/net", token="hf_alice").code == 0
    arguments = json.loads(hub.store.read("alice/net", "training_arguments.json"))
    summary = json.loads(hub.store.read("alice/net", "log_summary.json"))
    assert arguments["arguments"]["data"] == ["photos"] and arguments["max_steps"] == 3
    state = read_recorded(run).state
    assert summary["steps"] == 3 and summary["lines"] == 3 and summary["images_seen"] == state.images_seen == 12
    assert summary["lowest_loss"]["loss"] == min(line["loss"] for line in read_recorded(run).log)
    for path in files_of(hub):
        assert b"carol" not in hub.store.read("alice/net", path), path


def test_a_second_push_of_the_same_is_no_commit_and_no_tag(hub, command, run):
    for _ in range(2):
        done = command("push", str(run), "alice/net", "--with-timm", token="hf_alice")
        assert done.code == 0, done.text
    assert "unchanged: alice/net at v1" in done.out and "unchanged: alice/net-timm at v1" in done.out
    for name in ("alice/net", "alice/net-timm"):
        assert len(titles(hub, name)) == 1 and list(tags(hub, name)) == ["v1"]
    assert len(hub.asked("POST", "/commit/")) == 2


def test_everything_that_can_go_along(hub, command, client, run):
    extras = (
        "--public",
        "--with-timm",
        "--with-code",
        "--with-pretraining",
        "--tag",
        "first",
        "--message",
        "All of it",
    )
    done = command("push", str(run), "lab/net", *extras, token="hf_alice")
    assert done.code == 0, done.text
    held = files_of(hub, "lab/net")
    assert {"modeling_mcl.py", "pretraining/model.safetensors", "pretraining/config.json", *SLIM, *RECORD} <= set(held)
    assert titles(hub, "lab/net") == titles(hub, "lab/net-timm") == ["All of it"]
    assert list(tags(hub, "lab/net")) == list(tags(hub, "lab/net-timm")) == ["first"]
    cards = [hub.store.read(name, "README.md").decode() for name in ("lab/net", "lab/net-timm")]
    blocks = [block for card in cards for block in re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)]
    assert len(blocks) == 5 and sum("AutoModelForPreTraining.from" in block for block in blocks) == 1
    assert "`lab/net/pretraining`" in cards[0] and f"({hub.endpoint}/lab/net)" in cards[1]
    opened = client(
        f"""
import torch, mcl_hf
for block in {blocks!r}:
    exec(block)
    if "timm.create_model" in block:
        maps = (features if "features =" in block else network).eval()(x := torch.rand(1, 3, 64, 64))
        ours = mcl_hf.MCLBackbone.from_pretrained({str(run)!r}).eval()(x).feature_maps
        assert all(torch.equal(a, b) for a, b in zip(maps, ours, strict=True))
    if "whole =" in block:
        kept = mcl_hf.MCLForPreTraining.from_pretrained({str(run / "pretraining")!r}).state_dict()
        assert all(torch.equal(tensor, kept[name]) for name, tensor in whole.state_dict().items())
    if "trust_remote_code" in block:  # as where mcl_hf is not installed
        import subprocess, sys
        alone = "import sys; sys.modules['mcl_hf'] = None\\n" + block + "print(type(whole).__module__)"
        subprocess.run([sys.executable, "-c", alone], check=True)
"""
    )
    assert opened.code == 0 and "transformers_modules.lab" in opened.out, opened.text


def test_a_space_is_made_beside_the_model(hub, command, client, run):
    arguments = ("push", str(run), "alice/net", "--with-space", "--license", "mit")
    planned = command(*arguments, "--dry-run")
    assert planned.code == 0 and not hub.asked(), planned.text
    assert "alice/net-demo (Space): 3 files" in planned.out and "  requirements.txt  " in planned.out
    assert "visibility: private" in planned.out and 'serve("alice/net"' not in planned.out
    for _ in range(2):  # the second sends nothing
        done = command(*arguments, token="hf_alice")
        assert done.code == 0, done.text
    space = hub.store.repos["space", "alice/net-demo"]
    assert space.private and hub.store.repos["model", "alice/net"].private and len(space.history()) == 2
    assert ("model", "alice/net-demo") not in hub.store.repos and "refs/tags/v1" in space.refs
    app, needed, card = (
        hub.store.read("alice/net-demo", name, type="space").decode()
        for name in ("app.py", "requirements.txt", "README.md")
    )
    compile(app, "app.py", "exec")
    assert "from mcl_hf.demo.page import serve\n" in app and 'serve("alice/net", host="0.0.0.0", port=7860)' in app
    assert f"mcl-hf[demo]=={mcl_hf.__version__}" in needed
    header = yaml.safe_load(card.split("---")[1])
    assert (header["sdk"], header["app_file"], header["models"]) == ("gradio", "app.py", ["alice/net"])
    assert header["license"] == "mit" and "HF_TOKEN" in card
    looks = """
from mcl_hf.demo.subject import open_subject
subject = open_subject("alice/net")
print(subject.summary, subject.curves.size)
"""
    seen = client(looks, token="hf_alice")
    assert seen.code == 0 and "resnet10t with feature pyramid" in seen.out, seen.text
    asked = len(hub.requests)
    assert client(looks, HF_HUB_OFFLINE="1").out == seen.out and len(hub.requests) == asked


def test_a_checkpoint_is_published_slim(hub, command, run):
    checkpoint = run / "checkpoints" / "step-00000002"
    assert command("push", str(checkpoint), "alice/net", token="hf_alice").code == 0
    assert files_of(hub) == sorted([*SLIM, *RECORD])
    size = len(hub.store.read("alice/net", "model.safetensors"))
    assert size < 0.6 * (checkpoint / "model.safetensors").stat().st_size
    assert json.loads(hub.store.read("alice/net", "config.json"))["architectures"] == ["MCLModel"]
    assert b"MCLForPreTraining" not in hub.store.read("alice/net", "README.md")
    assert json.loads(hub.store.read("alice/net", "log_summary.json"))["steps"] == 2


def test_a_detector_is_published_and_carries_no_code(hub, command, client, tmp_path):
    torch.manual_seed(0)
    tiny = {"backbone": "resnet10t", "backbone_kwargs": {"channels": [8, 16, 16, 32], "stem_width": 8}}
    config = MCLDetectorConfig(**tiny, fpn_channels=16, box_fc_dim=32, id2label={0: "cup"}, min_size=64)
    detector = tmp_path / "detector"
    MCLForInstanceSegmentation(config).save_pretrained(detector)
    MCLImageProcessor.from_config(config).save_pretrained(detector)
    refused = command("push", str(detector), "alice/cups", "--with-code", token="hf_alice")
    assert refused.code == 2 and "--with-code is for pre-training models" in refused.err
    assert not hub.asked()
    assert command("push", str(detector), "alice/cups", "--with-timm", "--public", token="hf_alice").code == 0
    assert files_of(hub, "alice/cups") == sorted(SLIM)
    opened = client('import mcl_hf; mcl_hf.MCLForInstanceSegmentation.from_pretrained("alice/cups")')
    assert opened.code == 0, opened.text


def test_a_release_replaces_the_one_before_and_leaves_what_is_not_its_own(hub, command, run):
    old = {"notes.md": b"mine", "docs/a.txt": b"mine", "model-00001-of-00002.safetensors": b"old",
           "pretraining/model.safetensors": b"old", "fpn.py": b"old", "README.md": b"# old\n",
           "pictures/montages.png": b"photos", "pictures/mine.png": b"mine"}  # fmt: skip
    hub.store.add("alice/net", old)
    done = command("push", str(run), "alice/net", token="hf_alice")
    assert done.code == 0, done.text
    assert files_of(hub) == sorted([*SLIM, *RECORD, "notes.md", "docs/a.txt"])
    assert pictures_of(hub) == ["pictures/mine.png", "pictures/training.png"]
    assert len(titles(hub)) == 2


def test_a_card_that_was_changed_on_the_hub_stays(hub, command, run, tmp_path):
    assert command("push", str(run), "alice/net", "--with-timm", token="hf_alice").code == 0
    written = hub.store.read("alice/net", "README.md")
    changed = written.replace(b"## Limitations", b"## Limits, as I see them")
    assert changed != written
    hub.store.add("alice/net", {"README.md": changed})
    again = ("push", str(run), "alice/net", "--with-timm", "--title", "Another")
    done = command(*again, token="hf_alice")
    assert done.code == 0 and done.out.count("README.md was changed there since it was written, and stays") == 1
    assert hub.store.read("alice/net", "README.md") == changed
    assert b"# Another" in hub.store.read("alice/net-timm", "README.md"), "that one was not"
    card = tmp_path / "mine.md"
    card.write_text("---\nlibrary_name: transformers\n---\n# Mine\n")
    assert command("push", str(run), "alice/net", "--card", str(card), token="hf_alice").code == 0
    assert hub.store.read("alice/net", "README.md") == card.read_bytes()


def test_the_next_release_gets_the_next_number(hub, command, run, tmp_path):
    assert command("push", str(run / "checkpoints" / "step-00000002"), "alice/net", token="hf_alice").code == 0
    assert command("push", str(run), "alice/net", token="hf_alice").code == 0
    assert list(tags(hub)) == ["v1", "v2"] and len(titles(hub)) == 2


def test_a_tag_that_names_something_else_is_refused_before_anything_changes(hub, command, run):
    first = ("push", str(run / "checkpoints" / "step-00000002"), "alice/net", "--tag", "r1")
    for says in ("published: alice/net at r1", "unchanged: alice/net at r1"):  # the second as after a lost answer
        done = command(*first, token="hf_alice")
        assert done.code == 0 and says in done.out, done.text
    before = hub.store.repos["model", "alice/net"].oid_of("main")
    done = command("push", str(run), "alice/net", "--tag", "r1", token="hf_alice")
    assert done.code == 2 and len(done.err.splitlines()) == 1, done.text
    assert "tag r1 of alice/net is taken by an earlier release" in done.err and "Nothing was changed" in done.err
    assert hub.store.repos["model", "alice/net"].oid_of("main") == before and len(titles(hub)) == 1


def test_a_new_tag_of_what_is_there_is_told_as_such(hub, command, run):
    assert command("push", str(run), "alice/net", token="hf_alice").code == 0
    done = command("push", str(run), "alice/net", "--tag", "final", token="hf_alice")
    assert done.code == 0 and "tagged: alice/net at final" in done.out and "unchanged" not in done.out, done.text
    assert sorted(tags(hub)) == ["final", "v1"] and len(titles(hub)) == 1


@pytest.mark.parametrize("flags", [(), ("--dry-run",)])
def test_a_tag_that_git_does_not_take_changes_nothing(flags, hub, command, run):
    done = command("push", str(run), "alice/net", "--tag", "my release", *flags, token="hf_alice")
    assert done.code == 2 and "cannot be a tag" in done.err and len(done.err.splitlines()) == 1, done.text
    assert not hub.asked() and not done.out


def test_a_revision_in_the_name_is_pointed_to_the_tag(hub, command, run):
    done = command("push", str(run), "alice/net@v1", "--dry-run", token="hf_alice")
    assert done.code == 2 and "write alice/net --tag v1" in done.err and not hub.asked(), done.text


def test_a_dry_run_shows_everything_and_asks_nothing(hub, command, run):
    done = command("push", str(run), "alice/net", "--dry-run", "--with-timm", HF_HUB_OFFLINE="1")
    assert done.code == 0, done.text
    assert not hub.asked()
    assert "visibility: private (--public makes it public) where the repository is new" in done.out
    assert "licence of the weights: none is claimed (--license NAME gives one)" in done.out
    assert "alice/net: " in done.out and "alice/net-timm: " in done.out
    size = f"{(run / 'model.safetensors').stat().st_size / 1000:.1f} kB"
    assert any(line.split() == ["model.safetensors", *size.split()] for line in done.out.splitlines()), done.out
    assert "--- README.md of alice/net ---\n---\n" in done.out and "library_name: timm" in done.out


PAGE = (Path(__file__).parents[2] / "docs" / "publishing.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("line", re.findall(r"^mcl-hf push .*", PAGE, flags=re.M))
def test_the_commands_of_the_page(line, hub, client, run, tmp_path):
    folder = tmp_path / "client"
    shutil.copytree(run, folder / "my-run")
    words = shlex.split(line.split("#")[0])
    words = [word.replace("user/name", "alice/net") for word in words]
    done = client(f"import sys; from mcl_hf.cli import main; sys.exit(main({words[1:]!r}))", token="hf_alice")
    assert done.code == 0, done.text
    assert bool(hub.store.repos) == ("--dry-run" not in words)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{run}/nothing"], ": push takes a run, a checkpoint or a detector"),
        (["user/name"], ": push takes a run, a checkpoint or a detector"),
        (["{run}/pictures"], "is not a checkpoint"),
        (["{run}", "--create-pr", "--tag", "v1"], "--tag and --create-pr are both given"),
        (["{run}", "--card", "none.md"], "--card none.md cannot be read"),
        (["{run}", "--create-pr", "--tag", "v1", "--dry-run"], "--tag and --create-pr are both given"),
        (["{run}", "--card", "my.md", "--license", "mit"], "--license is for the card that is made of the records"),
        (["{run}", "--card", "my.md", "--with-timm", "--evaluation", "a.json"], "--evaluation is for the card"),
        (["{run}", "--create-pr"], "--create-pr needs a repository that is there"),
    ],
)
def test_what_cannot_be_pushed_changes_nothing(arguments, says, hub, command, run):
    (run / "pictures").mkdir(exist_ok=True)
    checkpoint, *others = (word.format(run=run) for word in arguments)
    done = command("push", checkpoint, "alice/net", *others, token="hf_alice")
    assert done.code == 2 and says in done.err and "Traceback" not in done.err, done.text
    assert not hub.store.repos


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGKILL", -9)])
def test_a_push_that_is_cut_off_leaves_nothing_half_done(name, code, hub, client, command, run, tmp_path):
    hub.fault("slow", "POST", "/commit/", delay_s=0.8)
    marker = tmp_path / "marker"
    push = CUT_OFF.format(marker=str(marker), name=name, run=str(run))

    def mark():
        while not hub.asked("POST", "/commit/"):
            time.sleep(0.02)
        marker.touch()

    threading.Thread(target=mark, daemon=True).start()
    done = client(push, token="hf_alice")
    assert done.code == code, done.text
    if name == "SIGINT":
        assert "alice/net is new and empty (or holds the whole release)" in done.err and "Traceback" not in done.err
    assert len(titles(hub)) <= 1
    time.sleep(1)  # the Hub may still be at it
    assert files_of(hub) in ([], sorted([*SLIM, *RECORD]))
    assert command("push", str(run), "alice/net", token="hf_alice").code == 0
    assert len(titles(hub)) == 1 and list(tags(hub)) == ["v1"] and files_of(hub) == sorted([*SLIM, *RECORD])


@pytest.mark.parametrize("token", ["hf_alice", "secret-of-alice"])  # not all begin with hf_
def test_no_token_is_shown_even_if_the_hub_repeats_it(token, hub, command, run):
    hub.users[token] = hub.users["hf_alice"]
    hub.fault("status", "GET", "/whoami", status=503, message=f"{token} has to wait")  # is told in a warning
    hub.fault("status", "POST", "/repos/create", status=403, message=f"{token} may not do this")
    done = command("push", str(run), "alice/net", token=token)
    assert done.code == 2 and "may not do this" in done.err and token not in done.text
    assert "has to wait" in done.err


def test_a_damaged_checkpoint_is_not_published(hub, command, run, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(run, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    done = command("push", str(broken), "alice/net", token="hf_alice")
    assert done.code == 2 and "Traceback" not in done.err, done.text
    assert not hub.store.repos
