"""What is found under the name of a checkpoint is called what it is, in one line without torch's advice."""

import gzip
import io
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from mcl_hf.models.weight_files import not_finite, read_json_object, read_pickled, read_safetensors
from mcl_hf.remote.checkpoints import local_checkpoint

TENSORS = {f"layer1.{index}.conv1.weight": torch.randn(8, 8, 3, 3) for index in range(4)}


def pickled(legacy: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(TENSORS, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


WHOLE = {".pth": pickled(), ".old.pth": pickled(legacy=True), ".safetensors": save(TENSORS)}
READERS = {".pth": read_pickled, ".old.pth": read_pickled, ".safetensors": read_safetensors}


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize(
    ("spoil", "seen"),
    [
        (lambda whole: b"", "it is empty"),
        (lambda whole: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "a Git LFS pointer"),
        (lambda whole: b"\n<!DOCTYPE html><html><title>Quota exceeded</title></html>", "an HTML page"),
        (lambda whole: b"<HTML>", "an HTML page"),
        (lambda whole: b"\xef\xbb\xbf<html>", "an HTML page"),
        (lambda whole: b"404: Not Found", "it is a text"),
        (lambda whole: b'{"error": "Unauthorized access to this file"}', "it is a text"),
        (gzip.compress, "it is a packed archive"),
        (lambda whole: bytes(5000), "it begins with zeros"),
        (lambda whole: whole[:3], "cut off"),
        (lambda whole: whole[:100], "cut off"),
        (lambda whole: whole[: len(whole) // 2], "cut off"),
        (lambda whole: whole[:-30], "cut off"),
        (lambda whole: torch.arange(40, 90).to(torch.uint8).numpy().tobytes() + b"\xff" * 99, "it is"),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path: Path, kind: str, spoil, seen: str) -> None:
    path = tmp_path / f"model{kind}"
    path.write_bytes(WHOLE[kind])
    assert torch.equal(READERS[kind](path)["layer1.0.conv1.weight"], TENSORS["layer1.0.conv1.weight"])
    path.write_bytes(spoil(WHOLE[kind]))
    with pytest.raises(ValueError, match=f"^{path} is no checkpoint: .*{seen}") as caught:
        READERS[kind](path)
    text = str(caught.value)
    assert len(text.splitlines()) == 1 and "weights_only" not in text and "\x1b" not in text


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("config.json", b"[1, 2]", "is no JSON object"),
        ("config.json", b"7", "is no JSON object"),
        ("config.json", b"{'a': 1}", "is no JSON"),
        ("config.json", b"\xff\xfe\x00", "is no JSON"),
        ("config.json", b'{"a":' * 100_000, "nested too deeply"),
        ("preprocessor_config.json", b"null", "is no JSON object"),
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        ("model-00001-of-00002.safetensors", save(TENSORS)[:-1], "cut off"),
    ],
)
def test_a_folder_is_looked_at_before_it_is_opened(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert local_checkpoint(str(tmp_path), []) == tmp_path
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=told) as caught:
        local_checkpoint(str(tmp_path), [])
    assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)


def test_json_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"\xef\xbb\xbf{}")
    assert read_json_object(tmp_path / "config.json") == {}


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(OSError, match="is no regular file"):
        read_json_object(tmp_path / "config.json")


def test_what_is_not_finite_is_named() -> None:
    tensors = {
        "a": torch.tensor([1.0, float("nan")]),
        "b": torch.tensor([1]),
        "c": torch.tensor([float("-inf")]).half(),
    }
    assert not_finite(tensors) == ["a", "c"]
