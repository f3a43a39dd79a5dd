"""What is published of a run names no folder, in whatever way it was given."""

import shutil

from mcl_hf.engine.provenance import start_record
from mcl_hf.engine.resume import find_start
from mcl_hf.hub.bundle import is_ours, make_bundles
from mcl_hf.hub.card_data import ARGUMENTS_FILE, SUMMARY_FILE, read_recorded, read_state, without_private_parts
from mcl_hf.probe.networks import open_checkpoint
from mcl_hf.transfer.checkpoint import find_folder


def test_paths_lose_their_folders_and_names_stay(tmp_path, monkeypatch):
    (tmp_path / "home-of-carol" / "photos").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "home-of-carol")
    given = {"data": ["photos", "../home-of-carol/photos", "home/gone", "user/name", "x" * 5000], "init": "."}
    told = {"data": ["photos", "photos", "home/gone", "user/name", "x" * 5000], "init": "home-of-carol"}
    assert without_private_parts(given) == told
    monkeypatch.chdir(tmp_path)
    assert without_private_parts("home-of-carol/photos") == "photos"  # which could be user/name, were it not here


def test_a_release_without_a_run_takes_the_record_of_an_earlier_one_away():
    assert is_ours(ARGUMENTS_FILE) and is_ours(SUMMARY_FILE)
    assert not is_ours("notes.md") and not is_ours(f"mine/{ARGUMENTS_FILE}")


def test_weights_that_somebody_put_beside_a_release_stay():
    assert all(map(is_ours, ("model.safetensors", "model-00001-of-00002.safetensors", "pretraining/model.safetensors")))
    assert not any(map(is_ours, ("model.fp16.safetensors", "model_int8.safetensors", "model-mine.safetensors")))


def test_on_a_disk_without_links_the_newest_checkpoint_is_the_last(run, tmp_path):
    (tmp_path / "run").mkdir()
    shutil.copytree(run / "checkpoints", tmp_path / "run" / "checkpoints", symlinks=True)
    (tmp_path / "run" / "checkpoints" / "last").unlink()
    (tmp_path / "run" / "checkpoints" / "step-00000009").mkdir()  # not whole
    newest = tmp_path / "run" / "checkpoints" / "step-00000003"
    for given in (tmp_path / "run", tmp_path / "run" / "checkpoints" / "last"):
        assert find_folder(str(given))[0] == newest
        assert read_recorded(given).folder == newest
        assert start_record(str(given))["run"]["steps"] == 3
        assert open_checkpoint(str(given)).config.backbone == "resnet10t"
    assert read_state(tmp_path / "run").step == 3
    assert find_start(tmp_path / "run", str(tmp_path / "run" / "checkpoints" / "last"))[0] == newest
    bundle = make_bundles(tmp_path / "run" / "checkpoints" / "last", "user/name", tmp_path / "release")[0]
    assert "model.safetensors" in bundle.files
