"""Which licence a picture is under, read from what its package says.

Flow: fetch -> archives + **licences** -> catalogue. Debian packages carry ``copyright``, mostly in the machine-readable
form (https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/); the archives of gcompris-qt carry READMEs
that name author, source and licence of each picture.
"""

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase

PUBLIC_DOMAIN = ("public-domain", "CC0-1.0")
"""Licences under which a picture may be shown anywhere without naming its author."""

UNKNOWN = "see the package's copyright file"


def debian_licence(notice: str, path: str) -> str:
    """Licence of a file by the text of a Debian ``copyright``: the last stanza that matches it, as the format says.

    The patterns name files of the source package, which are installed elsewhere: every tail of ``path`` is tried, and
    of a pattern without wildcards the file's name alone.
    """
    if not notice.lstrip().startswith("Format:"):
        return UNKNOWN
    parts = path.split("/")
    tails = ["/".join(parts[start:]) for start in range(len(parts))]
    licence = UNKNOWN
    for stanza in re.split(r"\n\s*\n", notice):
        fields = dict(re.findall(r"^(Files|License):[ \t]*((?:.*)(?:\n[ \t]+\S.*)*)", stanza, flags=re.MULTILINE))
        patterns = fields.get("Files", "").split()
        if parts[-1] in {pattern.rpartition("/")[2] for pattern in patterns} or any(
            fnmatchcase(tail, pattern) for pattern in patterns for tail in tails
        ):
            licence = fields.get("License", UNKNOWN).splitlines()[0].strip()
    return normalise(licence)


def readme_licence(files: Mapping[str, bytes], path: str) -> str:
    """Licence of a file of an archive by the nearest README above it that names it.

    Args:
        files: content of the archive by path.
        path: the file.
    """
    folder, inner = path.rpartition("/")[0], path.rpartition("/")[2]
    while folder:
        readme = files.get(f"{folder}/README")
        if readme is not None:
            return _stanzas(readme.decode("utf-8", errors="replace")).get(inner, UNKNOWN)
        folder, _, last = folder.rpartition("/")
        inner = f"{last}/{inner}"
    return UNKNOWN


def normalise(licence: str) -> str:
    """One spelling of the licences that matter here."""
    if re.fullmatch(r"public[ -]domain", licence.strip(), flags=re.IGNORECASE):
        return PUBLIC_DOMAIN[0]
    return licence.strip() or UNKNOWN


def _stanzas(text: str) -> dict[str, str]:
    """Licence by file of a README whose paragraphs are ``Copyright:``, ``License:``, ``Files:`` and a list."""
    licences: dict[str, str] = {}
    licence, listing = UNKNOWN, False
    for line in text.splitlines():
        field = re.match(r"(\w+):\s*(.*)", line)
        if field and field[1] in ("License", "Licence"):
            licence, listing = normalise(field[2]), False
        elif field and field[1] == "Files":
            listing = True
            licences.update(dict.fromkeys(field[2].split(), licence))
        elif field:
            listing = False
        elif not line.strip():
            licence, listing = (UNKNOWN, False) if listing else (licence, listing)
        elif listing:
            licences[line.strip()] = licence
    return licences
