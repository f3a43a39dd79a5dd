from pathlib import Path

import pytest
from scenes import fetch as module
from scenes.fetch import DEBIAN_PACKAGES, fetch, package_versions

from mcl_hf.errors import InputError


def test_a_missing_program_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="`apt-get` is not installed"):
        fetch(tmp_path / "sources")


def test_a_failing_download_gives_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "apt-get"
    program.write_text("#!/bin/sh\necho 'first line' >&2\necho 'E: Unable to locate package' >&2\nexit 100\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(InputError, match=r"apt-get download gcompris-qt-data` failed: E: Unable to locate package"):
        fetch(tmp_path / "sources")
    assert not (tmp_path / "sources" / module.UNPACKED / DEBIAN_PACKAGES[0]).exists()


def test_what_is_there_is_not_fetched_again(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    fetch(sources)


def test_versions_are_read_from_the_archives(tmp_path: Path) -> None:
    (tmp_path / "debs").mkdir()
    (tmp_path / "debs" / "scratch_1.4.0.6~dfsg1-6.1_all.deb").write_bytes(b"")
    (tmp_path / "debs" / "palapeli-data_4%3a22.12.3-1_all.deb").write_bytes(b"")
    (tmp_path / "unpacked" / "npm" / "lobehub-fluent-emoji-3d-1.1.0").mkdir(parents=True)
    assert package_versions(tmp_path) == {
        "palapeli-data": "4:22.12.3-1",
        "scratch": "1.4.0.6~dfsg1-6.1",
        "@lobehub/fluent-emoji-3d": "1.1.0",
    }
