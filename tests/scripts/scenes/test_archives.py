from pathlib import Path

import pytest
from scenes.archives import Packages, read_rcc

from mcl_hf.errors import InputError
from tests.scripts.scenes.drawing import rcc

FILES = {"a/b/c.txt": b"one" * 100, "a/d.txt": b"two", "é.txt": b""}


@pytest.mark.parametrize("flags", [0, 1])
def test_an_archive_gives_back_its_files(tmp_path: Path, flags: int) -> None:
    path = tmp_path / f"{flags}.rcc"
    path.write_bytes(rcc(FILES, flags))
    assert read_rcc(path) == FILES


def test_what_is_no_archive_or_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.rcc").write_bytes(b"text")
    with pytest.raises(InputError, match="no Qt resource archive"):
        read_rcc(tmp_path / "other.rcc")
    (tmp_path / "zstd.rcc").write_bytes(rcc(FILES, 4))
    with pytest.raises(InputError, match="zstd"):
        read_rcc(tmp_path / "zstd.rcc")


def test_a_missing_package_is_named(tmp_path: Path, sources: Path) -> None:
    with pytest.raises(InputError, match="fill it by"):
        Packages(tmp_path)
    with pytest.raises(InputError, match="lacks the package nothing"):
        Packages(sources).folder("nothing")
    with pytest.raises(InputError, match="npm package emoji"):
        Packages(sources).npm("emoji")
