"""Folders for results: whole or absent, and none left behind by a command that was refused."""

import errno
from pathlib import Path

import pytest

from mcl_hf.cli import main
from mcl_hf.errors import InputError
from mcl_hf.new_folder import kept_if_used, whole_folder


def test_a_folder_for_nothing_goes_again_with_those_above_it(tmp_path):
    folder = tmp_path / "a" / "b"
    (tmp_path / "there").mkdir()
    for made, kept in ((folder, False), (tmp_path / "there", True)):
        with pytest.raises(InputError), kept_if_used(made):
            made.mkdir(parents=True, exist_ok=True)
            raise InputError("refused")
        assert made.exists() == kept
    assert not folder.parent.exists()


def test_a_folder_that_holds_something_stays_and_so_does_one_without_an_error(tmp_path):
    with pytest.raises(InputError), kept_if_used(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b").mkdir(parents=True)
        (tmp_path / "a" / "b" / "work").touch()
        raise InputError("too late")
    assert (tmp_path / "a" / "b" / "work").exists()
    with kept_if_used(tmp_path / "c"):
        (tmp_path / "c").mkdir()
    assert (tmp_path / "c").exists()


def test_a_folder_is_whole_or_absent(tmp_path):
    out = tmp_path / "new" / "out"
    with pytest.raises(KeyboardInterrupt), whole_folder(out) as partial:
        (partial / "half").touch()
        raise KeyboardInterrupt
    assert not out.parent.exists()
    with whole_folder(out) as partial:
        (partial / "whole").touch()
        assert not out.exists()
    assert [path.name for path in out.parent.rglob("*")] == ["out", "whole"]
    with pytest.raises(InputError, match="not empty"), whole_folder(out):
        pytest.fail("it holds something")
    with (
        pytest.raises(InputError, match=f"cannot write {tmp_path / 'full'}: No space"),
        whole_folder(tmp_path / "full"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("name", [".", "..", "/", "a/.."])
def test_a_folder_needs_a_name_of_its_own(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="is no name for a folder"), whole_folder(Path(name)):
        pytest.fail("it has none")


@pytest.mark.parametrize(
    "words",
    [
        ["pretrain", "--recipe", "demo", "--data", "./nowhere"],
        ["pretrain", "--recipe", "demo", "--init", "./nowhere", "--num-workers", "0"],
        ["finetune", "--init", "random", "--data", "./nowhere"],
    ],
)
def test_a_run_that_is_refused_leaves_no_folder(words, tmp_path, capsys):
    assert main([*words, "--device", "cpu", "--output-dir", str(tmp_path / "runs" / "one")]) == 2
    assert "nowhere" in capsys.readouterr().err.splitlines()[-1] and not (tmp_path / "runs").exists()
