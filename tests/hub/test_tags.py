"""Names of tags: those that git takes, and no others, here and on the tests' Hub."""

import shutil
import subprocess

import pytest

from mcl_hf.errors import InputError
from mcl_hf.hub.tags import check_tag
from tests.hub_store import FORBIDDEN_REF

TAKEN = ["v1", "v1.0", "release/v1", "a@b", "a-b", "v1.locked", "x{y}", "größe", "HEAD/x"]
REFUSED = ["", " ", "a b", "a..b", "a~1", "a^", "a:b", "a?", "a*", "a[0]", "a\\b", "a\tb", "a\nb", "a\x7f", "/a", "a/",
           "a//b", ".a", "a/.b", "a.", "a.lock", "a.lock/b", "a@{0}", "@", "-a"]  # fmt: skip


@pytest.mark.parametrize("tag", TAKEN)
def test_names_that_git_takes(tag):
    check_tag(tag)
    assert not FORBIDDEN_REF.search(tag)


@pytest.mark.parametrize("tag", REFUSED)
def test_names_that_git_does_not_take_are_one_line(tag):
    with pytest.raises(InputError, match="cannot be a tag: its name may not ") as caught:
        check_tag(tag)
    assert "\n" not in str(caught.value)
    assert FORBIDDEN_REF.search(tag) or not tag


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_git_says_the_same():
    for tag in [*TAKEN, *REFUSED]:
        code = subprocess.run(["git", "check-ref-format", f"refs/tags/{tag}"], check=False).returncode
        assert (code == 0) == (tag in [*TAKEN, "@", "-a"]), tag  # these two git refuses as names alone
