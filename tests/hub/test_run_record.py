"""What is published of a run names no folder, in whatever way it was given."""

from mcl_hf.hub.bundle import is_ours
from mcl_hf.hub.card_data import ARGUMENTS_FILE, SUMMARY_FILE, without_private_parts


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
