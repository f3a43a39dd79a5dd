"""The claims of the benchmark, written down before the test split is asked.

Flow: evaluation/transfer/margins.yaml -> **margins** -> runner (which asks nothing of the test split without it),
report.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from mcl_hf.errors import InputError

FILE = Path(__file__).resolve().parents[2] / "evaluation" / "transfer" / "margins.yaml"


@dataclass(frozen=True)
class Claim:
    """A difference of two arms that was expected.

    Attributes:
        arm, against: names of the arms.
        kind: "superiority" or "equivalence".
        margin: in points (per cent) of the figure.
        why: where the expectation comes from.
    """

    arm: str
    against: str
    kind: Literal["superiority", "equivalence"]
    margin: float
    why: str


def read_claims(file: Path = FILE) -> list[Claim]:
    """The claims.

    Raises:
        InputError: the file is missing or not what is written there.
    """
    content = _load(file)
    try:
        return [Claim(**claim) for claim in content["claims"]]
    except (KeyError, TypeError) as error:
        raise InputError(f"{file} lacks {error}: every claim has arm, against, kind, margin and why") from error


def margins_hash(file: Path = FILE) -> str:
    """Short hash of the file, which every result of the test split carries.

    Raises:
        InputError: it is missing.
    """
    read_claims(file)
    return hashlib.blake2b(file.read_bytes(), digest_size=8).hexdigest()


def _load(file: Path) -> Any:
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{file} is missing: margins are written down and committed before the test split is asked"
        ) from error
