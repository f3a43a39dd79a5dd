"""Where a checkpoint lies: a file or folder here, or a repository of the Hub, which is fetched.

Before every reader of weights: `starting_weights`, exports, detectors, probes, resumed runs.

    "folder" | "demo" | "user/name[/folder][@revision]" -> **checkpoints** -> retry -> huggingface_hub -> a folder here
"""

import hashlib
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import constants, errors, snapshot_download
from huggingface_hub.utils import filter_repo_objects, validate_repo_id
from huggingface_hub.utils.sha import git_hash

from ..hub_token import token_variable
from ..models.weight_files import check_safetensors, read_json_object, weights_in
from ..retry import call_with_retries, chain, is_transient, reason_of, without_secrets

MODEL_FILES = ("*.safetensors", "*.json")
"""What a model is opened from: weights, configuration, processor."""

CARD, RECORD = "README.md", "training_state.json"
"""Fetched along with them: the licence of the weights, and the record of their run (`engine/state.py`)."""

DEMO = "demo"
"""Names the checkpoint that comes with the package, where there is no folder of that name."""

_FOLDERS = r"pretraining|checkpoints/step-\d{8,}"
_SOURCE = re.compile(
    rf"(?P<repository>[\w.-]+/[\w.-]+)(?:/(?P<folder>{_FOLDERS}))?(?:@(?P<revision>[^@\s]+))?", re.ASCII
)


@dataclass(frozen=True)
class HubSource:
    """A checkpoint on the Hub: `repository` is `user/name`; `folder` that of a run that lies in it, `pretraining` or
    `checkpoints/step-00000030`, empty for the model itself; `revision` a branch, tag, commit or `refs/pr/N`, None for
    `main`."""

    repository: str
    folder: str = ""
    revision: str | None = None


def hub_source(text: str) -> HubSource | None:
    """A text as a repository's name, None where it cannot be one. What exists here is never asked for."""
    match = _SOURCE.fullmatch(text)
    if match is None or Path(text).exists():
        return None
    try:
        validate_repo_id(match["repository"])
    except errors.HFValidationError:
        return None
    return HubSource(match["repository"], match["folder"] or "", match["revision"])


def demo_checkpoint() -> Path:
    """The folder of the small checkpoint that comes with the package, pre-trained by the recipe `demo`.

    Example:
        >>> import mcl_hf
        >>> mcl_hf.MCLModel.from_pretrained(mcl_hf.demo_checkpoint()).config.backbone
        'resnet10t'
    """
    return Path(__file__).parents[1] / "pretrained" / DEMO


def last_checkpoint(run: Path) -> Path | None:
    """The newest checkpoint in the folder of a run: what `checkpoints/last` points to, also on disks without links;
    None where there is none. Checkpoints come to be whole, so a look at the manifest has to do."""
    last = run / "checkpoints" / "last"
    if last.is_dir():
        return last
    names = sorted(manifest.parent.name for manifest in run.glob("checkpoints/step-*/manifest.json"))
    return run / "checkpoints" / names[-1] if names else None


def with_last(path: Path) -> Path:
    """A path, with the newest checkpoint for `RUN/checkpoints/last`, where that is not there."""
    is_last = path.parts[-2:] == ("checkpoints", "last") and not path.exists()
    return (last_checkpoint(path.parents[1]) if is_last else None) or path


def local_checkpoint(source: str, patterns: Sequence[str], others: str = "") -> Path:
    """The file or folder of a checkpoint on this machine.

    Args:
        source: A path, or a repository `user/name`, of which `/pretraining` or `/checkpoints/step-00000030` may be
            meant, and a revision: `user/name@v1`; or `demo`. Of an unfinished run, the last checkpoint is taken.
        patterns: Files that are fetched, as globs; those of other folders of the repository are not.
        others: What else the caller would have taken, for the message: `"timm:NAME, "`.

    Raises:
        ValueError: One line: neither a path nor a repository's name, the Hub does not give it, or it holds files that
            are not what they are called.
    """
    if not source:  # which would be the current folder
        raise ValueError("the name of a checkpoint is empty")
    path = with_last(Path(source))
    if path.exists():
        return _checked(path)
    if source == DEMO:
        return _checked(demo_checkpoint())
    wanted = hub_source(source)
    if wanted is None:
        raise ValueError(
            f"no checkpoint at {source}: neither {others}a file, a folder nor a repository user/name[@revision]"
        )
    prefix = f"{wanted.folder}/" if wanted.folder else ""
    wants = [CARD, RECORD, *(prefix + pattern for pattern in patterns)]
    folder = fetch(wanted, wants, ignore=[f"{prefix}*/*"]) / wanted.folder
    if any(found for pattern in patterns for found in folder.glob(pattern)):
        return _checked(folder)
    if not wanted.folder:
        for newest in hub_checkpoints(wanted):
            return _checked(fetch(newest, [f"{newest.folder}/{pattern}" for pattern in patterns]) / newest.folder)
    raise ValueError(f"{source} holds no {' or '.join(patterns)}{f' in {wanted.folder}' if wanted.folder else ''}")


def _checked(path: Path) -> Path:
    """A file or folder whose descriptions are JSON objects, and whose weights are such files; see `weight_files`."""
    for description in ("config.json", "preprocessor_config.json", "model.safetensors.index.json"):
        if (path / description).is_file():
            read_json_object(path / description)
    for weights in [path] if path.suffix == ".safetensors" else weights_in(path):
        check_safetensors(weights)
    return path


def hub_checkpoints(source: HubSource) -> list[HubSource]:
    """Checkpoints of a run that lie in a repository, the newest first, all at the commit that is there now. A
    ValueError as of `fetch`."""
    snapshot = fetch(source, ["checkpoints/step-*/manifest.json"])
    names = sorted(path.parent.name for path in snapshot.glob("checkpoints/step-*/manifest.json"))
    return [HubSource(source.repository, f"checkpoints/{name}", snapshot.name) for name in reversed(names)]


def fetch(source: HubSource, patterns: Sequence[str], ignore: Sequence[str] = ()) -> Path:
    """Files of a repository as a folder of the client's cache, asked for again while the Hub is away. The source's
    `folder` is not looked at; in globs, `*` goes across folders. A ValueError of one line where the Hub refuses it, is
    away, gives other bytes than it says, or offline mode has nothing in the cache."""
    name = source.repository + (f"@{source.revision}" if source.revision else "")
    globs: dict[str, Any] = {"allow_patterns": list(patterns), "ignore_patterns": list(ignore) or None}
    broken: list[Path] = []
    for _ in range(2):
        try:
            with _own_words():
                folder = call_with_retries(
                    snapshot_download, source.repository, revision=source.revision, what=f"fetching {name}", **globs
                )
        except Exception as error:  # the client raises many types, of which the operating system's are one
            raise ValueError(refusal(error, source)) from error
        here = [path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()]
        files = filter_repo_objects(here, **globs)
        broken = [path for file in files if not _is_what_the_hub_says(path := Path(folder, file))]
        if not broken:
            return Path(folder)
        for path in broken:
            path.resolve().unlink()
    raise ValueError(f"{broken[0].name} of {name} has not the hash that the Hub gives for it: try again later")


def _is_what_the_hub_says(path: Path) -> bool:
    """Whether a file of the cache has the hash that it is named by: SHA-256 of large files, git's of others."""
    named = path.resolve().name
    with path.open("rb") as file:
        if re.fullmatch(r"[0-9a-f]{64}", named):
            return hashlib.file_digest(file, "sha256").hexdigest() == named
        if re.fullmatch(r"[0-9a-f]{40}", named):
            return git_hash(file.read()) == named
    return True  # a cache without links, which keeps no hashes


@contextmanager
def _own_words() -> Iterator[None]:
    """Keep back the client's line that no file matched: whoever looks into the folder says what that means."""

    def is_other_news(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("No files matched")

    client = logging.getLogger(snapshot_download.__module__)
    client.addFilter(is_other_news)
    try:
        yield
    finally:
        client.removeFilter(is_other_news)


def refusal(error: BaseException, source: HubSource) -> str:
    """Why the Hub does not give a repository, and what to do, in one line without tokens."""
    name, variable = source.repository, token_variable()
    token = f"check the token in {variable}" if variable else "log in with 'hf auth login'"
    for one in chain(error):
        if isinstance(one, errors.OfflineModeIsEnabled):
            return (
                f"HF_HUB_OFFLINE is set and the cache {constants.HF_HUB_CACHE} does not hold all of {name}"
                f"{f'@{source.revision}' if source.revision else ''}: fetch it once without HF_HUB_OFFLINE"
            )
        if isinstance(one, errors.RevisionNotFoundError):
            return f"the repository {name} on the Hub has no revision {source.revision or 'main'}"
        if isinstance(one, errors.GatedRepoError):
            return f"{name} is gated: ask for access on its page, and {token}"
        if isinstance(one, errors.RepositoryNotFoundError):
            return (
                f"there is no folder {name} here, and no repository {name} on the Hub that can be seen: check the "
                f"name, and {token} if it is private"
            )
        status = one.response.status_code if isinstance(one, errors.HfHubHTTPError) and one.response is not None else 0
        if status == 401:
            mend = f"mend or unset {variable}" if variable else "log in again with 'hf auth login'"
            return f"cannot fetch {name}: the Hub does not know your token; {mend}"
        if status == 403:
            return f"cannot fetch {name}: your token may not read it ({reason_of(one)})"
    if is_transient(error):
        why = f"{constants.ENDPOINT} cannot be reached or is busy ({reason_of(error)})"
        return f"cannot fetch {name}: {why}; try again later"
    return f"cannot fetch {name} from the Hub: {without_secrets(str(error) or type(error).__name__)}"
