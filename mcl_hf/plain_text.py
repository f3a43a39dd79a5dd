"""Texts that come from data, made safe for a terminal and for a log of one line an entry."""

import unicodedata


def plain_text(text: object, keep: str = "") -> str:
    """`str(text)` with whatever is not shown as a character written out, as `\\x1b`, but for what is in `keep`: control
    characters, line breaks, marks that turn the direction of writing, and the bytes of a file name that is no UTF-8.
    Blanks of other scripts stay. The result can be printed and encoded everywhere that UTF-8 can."""
    shown = str(text)
    if shown.isprintable():  # nearly always
        return shown
    return "".join(c if c.isprintable() or c in keep or unicodedata.category(c) == "Zs" else _escaped(c) for c in shown)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python stands for a byte that it could not decode
        code -= 0xDC00
    return character.encode("unicode_escape").decode("ascii") if code >= 0x100 else f"\\x{code:02x}"
