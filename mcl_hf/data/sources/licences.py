"""What is known of a data set without opening it: its name, where it is published, and its licence.

Flow: `--data` -> **licences** -> the record of a run -> its model card. Nothing is asked over the network: the licence
of a data set of the Hub is read from its card, where loading it has left one in the client's cache.
"""

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .addresses import is_hub_name, split_mix
from .local_tables import BCCD_MINI
from .remote_files import is_remote

_PHOTOS = "public domain, CC0 or CC BY 2.0, 3.0 or 4.0, named for each photo in mcl_hf/data/photos/LICENSE-IMAGES.md"
_ADDRESS = "hf://datasets/"


def describe_sources(data: Sequence[str]) -> list[dict[str, Any]]:
    """One record for each source of a mix: `kind` (`embedded`, `files`, `hub` or `web`), `name` (without the folders
    above it, server or query), `licence` (None: not known), and in a weighted mix `weight`."""
    names, weights = split_mix(list(data))
    found = [_describe(name) for name in names]
    if weights is not None:
        found = [{**source, "weight": weight} for source, weight in zip(found, weights, strict=True)]
    return found


def _describe(name: str) -> dict[str, Any]:
    if name == "photos":
        return {"kind": "embedded", "name": "the embedded photos of mcl_hf", "licence": _PHOTOS}
    if name == BCCD_MINI:
        return {"kind": "embedded", "name": "bccd-mini of mcl_hf, made from BCCD", "licence": "MIT"}
    if name.startswith(_ADDRESS):
        return _on_hub("/".join(name.removeprefix(_ADDRESS).split("/")[:2]).partition("@")[0])
    if is_remote(name):
        return {"kind": "web", "name": name.partition("?")[0].rstrip("/").rpartition("/")[2], "licence": None}
    path = Path(name)  # not of an address: a signed one is longer than a path may be
    if path.exists():
        return {"kind": "files", "name": path.resolve().name, "licence": None}
    if glob.has_magic(name) or not is_hub_name(name):
        return {"kind": "files", "name": path.name, "licence": None}
    return _on_hub(name)


def _on_hub(repository: str) -> dict[str, Any]:
    from huggingface_hub import try_to_load_from_cache

    card = try_to_load_from_cache(repository, "README.md", repo_type="dataset")
    licence = card_licence(Path(card)) if isinstance(card, str) else None
    return {"kind": "hub", "name": repository, "licence": licence}


def card_licence(card: Path) -> str | None:
    """The licence that a card's header names; None: it names none, or there is no card that can be read."""
    from huggingface_hub import RepoCard

    try:
        data = RepoCard.load(card).data
    except Exception:  # the client raises whatever an odd header leads it to
        return None
    licence = getattr(data, "license_name", None) or getattr(data, "license", None)
    return ", ".join(map(str, licence)) if isinstance(licence, list) else str(licence) if licence else None
