"""Names of tags: those that are let through git takes, too; all else is one line before anything changes."""

import shutil
import subprocess

import pytest

from mcl_hf.errors import InputError
from mcl_hf.hub.publish import check_request

TAKEN = ["v1", "v1.0", "release/v1", "a@b", "a-b", "v1.locked", "HEAD/x"]
REFUSED = ["", " ", "a b", "a..b", "a~1", "a^", "a:b", "a?", "a*", "a[0]", "a\\b", "a\tb", "a\nb", "a\n", "a\x7f",
           "/a", "a/", "a//b", ".a", "a/.b", "a.", "a.lock", "a.lock/b", "a@{0}", "@", "-a"]  # fmt: skip


@pytest.mark.parametrize("tag", TAKEN)
def test_names_of_tags_that_git_takes(tag):
    check_request("user/name", False, tag)
    git = shutil.which("git")
    assert git is None or subprocess.run([git, "check-ref-format", f"refs/tags/{tag}"], check=False).returncode == 0


@pytest.mark.parametrize("tag", REFUSED)
def test_other_names_are_one_line(tag):
    with pytest.raises(InputError, match="cannot be a tag") as caught:
        check_request("user/name", False, tag)
    assert "\n" not in str(caught.value)
