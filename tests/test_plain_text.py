"""Names from data on a terminal."""

import pytest

from mcl_hf.plain_text import plain_text


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("bär 猫 🐈.jpg", "bär 猫 🐈.jpg"),
        ("a\u3000b\u00a0c", "a\u3000b\u00a0c"),  # blanks of other scripts
        ("\x1b]0;owned\x07", "\\x1b]0;owned\\x07"),
        ("\x9b2J\x7f\0", "\\x9b2J\\x7f\\x00"),
        ("a\nb\rc\td\u2028e\x85", "a\\x0ab\\x0dc\\x09d\\u2028e\\x85"),
        ("cat\u202egpj.exe", "cat\\u202egpj.exe"),
        (b"caf\xe9.jpg".decode("utf-8", "surrogateescape"), "caf\\xe9.jpg"),
        ("\ud800", "\\ud800"),
        (ValueError("a\x1bb"), "a\\x1bb"),
    ],
)
def test_what_is_no_character_is_written_out(given, shown):
    assert plain_text(given) == shown
    plain_text(given).encode("utf-8")


def test_line_breaks_of_our_own_can_be_kept():
    assert plain_text("a\nb\x1b", keep="\n") == "a\nb\\x1b"
