"""One repository on the Hub: who may write, what lies there, one commit, a tag. Each of it can be repeated.

Where it sits: `publish.py` and `background.py` -> **repository** -> huggingface_hub. The client repeats neither the
creation of a repository nor a commit, so it is done here. A commit names its parent: of two that crossed, the Hub
refuses the second, which is then made anew.

Source: huggingface_hub `hf_api.py` (create_commit, model_info, create_tag), Hub API.
"""

import itertools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import file_digest
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status, validate_repo_id
from huggingface_hub.utils.sha import git_hash

from ..errors import InputError
from ..files import was_changed
from ..hub_token import token_variable
from ..retry import call_with_retries, is_transient, without_secrets
from .refusals import one_line

CARD = "README.md"
CARD_KEPT = "README.md was changed there since it was written, and stays; delete it there to have it written anew"
MAX_FILE_BYTES = 50_000_000_000  # the Hub's limit of one file
_MOVED = 412  # the answer where the parent is no longer the newest commit
T = TypeVar("T")


@dataclass(frozen=True)
class Commit:
    """What a branch, or a pull request, holds now.

    Attributes:
        oid: the newest commit.
        made: whether this call made it; False where all files were there.
        url: to look at.
        kept_card: whether the card that is there stayed, as somebody has changed it since it was written.
    """

    oid: str
    made: bool
    url: str
    kept_card: bool = False


def check_name(repository: str) -> None:
    """Refuse what cannot be a repository's name, and name the rule."""
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise InputError(f"{repository} is no name of a repository: write user/name or organisation/name")
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise InputError(f"{repository} is no name of a repository: {' '.join(str(error).split())}") from error


@dataclass
class Repository:
    """A repository, as the user's token may use it.

    Every method raises `InputError` where the Hub refuses something, and `HubAwayError` where it cannot be reached.

    Attributes:
        name: `user/name`.
        kind: `model` or `space`.
        attempts: of each request, where the Hub is away or busy.
    """

    name: str
    attempts: int = 6
    kind: str = "model"
    _api: HfApi = field(default_factory=HfApi, repr=False)

    # --- before anything is changed -----------------------------------------------------------------------------------
    def check(self, private: bool = False, create_pr: bool = False) -> bool:
        """Whether the repository exists; everything that would stand in the way of writing to it is refused.

        Args:
            private: it is wanted private.
            create_pr: a pull request is wanted, which needs no rights on the repository.
        """
        check_name(self.name)
        if constants.HF_HUB_OFFLINE:
            raise InputError(f"HF_HUB_OFFLINE is set, and pushing to {self.name} needs the network: unset it")
        user = self._call("checking your token for", self._api.whoami)
        self._check_rights(user, create_pr)
        if not self._call("looking at", self._api.repo_exists, self.name, repo_type=self.kind):
            if create_pr:
                raise InputError(
                    f"--create-pr needs a repository that is there, and {self.name} is none that your token may see"
                )
            return False
        if private and not self._call("looking at", self._api.repo_info, self.name, repo_type=self.kind).private:
            raise InputError(
                f"{self.name} is there, and public: leave --private out, or make it private in its settings first"
            )
        return True

    def check_card(self, text: str) -> None:
        """Let the Hub check a card."""
        said = self._call("checking the card of", _objection, text, self.kind)
        if said is not None:
            raise InputError(f"the Hub does not take the card of {self.name}: {without_secrets(said)}")

    def _check_rights(self, user: Mapping[str, Any], create_pr: bool) -> None:
        role = user.get("auth", {}).get("accessToken", {}).get("role")
        if role == "read":
            variable = token_variable()
            then = f"put it into {variable}" if variable else "log in with 'hf auth login'"
            raise InputError(f"your token may only read: make one that may write to {self.name}, and {then}")
        owner = self.name.split("/")[0]
        roles = {entry["name"].lower(): entry.get("roleInOrg") for entry in user.get("orgs", [])}
        if not create_pr and roles.get(owner.lower()) == "read":
            raise InputError(
                f"no permission: {user['name']} may only read in {owner}; ask there for the right to write, or propose "
                "a change with --create-pr"
            )
        own = [user["name"], *(entry["name"] for entry in user.get("orgs", []))]
        if not create_pr and owner.lower() not in (name.lower() for name in own):
            raise InputError(
                f"no permission: you are {user['name']} and may publish under {', '.join(own)}, not under {owner}; "
                "to propose a change there, use --create-pr"
            )

    # --- what is there ------------------------------------------------------------------------------------------------
    def head(self) -> tuple[str | None, list[str]]:
        """The newest commit (None: there is none yet) and the paths in it."""
        info = self._call("reading", self._api.repo_info, self.name, repo_type=self.kind)
        return info.sha, [entry.rfilename for entry in info.siblings or ()]

    def holds(self, files: Mapping[str, Path]) -> bool:
        """Whether the newest commit has the same bytes in all these files."""

        def read() -> dict[str, RepoFile]:
            found = self._api.list_repo_tree(self.name, recursive=True, repo_type=self.kind)
            return {entry.path: entry for entry in found if isinstance(entry, RepoFile)}

        there = self._call("reading", read)
        return all(path in there and _is_same(file, there[path]) for path, file in files.items())

    def tags(self) -> dict[str, str]:
        """Tag -> commit."""
        refs = self._call("reading the tags of", self._api.list_repo_refs, self.name, repo_type=self.kind)
        return {ref.name: ref.target_commit for ref in refs.tags}

    # --- what changes -------------------------------------------------------------------------------------------------
    def create(self, private: bool = True) -> None:
        """Make the repository; a name that is taken, by what the token may not see, is refused."""
        exist_ok = itertools.chain([False], itertools.repeat(True))  # again: the answer to the first was lost

        def attempt() -> None:
            self._api.create_repo(
                self.name, private=private, exist_ok=next(exist_ok), repo_type=self.kind,
                space_sdk="gradio" if self.kind == "space" else None,
            )  # fmt: skip

        self._call("making", attempt)

    def commit(
        self,
        files: Mapping[str, Path],
        message: str,
        obsolete: Callable[[list[str]], Iterable[str]],
        create_pr: bool = False,
    ) -> Commit:
        """Bring the repository to hold these files, in one commit, or none where it does.

        Not by `upload_folder`, which makes several commits of large files where Xet is installed. The client leaves out
        files that are there already, so a repeated attempt whose answer was lost makes no second commit. A card that
        was changed on the Hub is not replaced by one that was rendered.

        Args:
            files: path in the repository -> file here.
            message: title of the commit.
            obsolete: which of the paths that are there, and not in `files`, are to go.
            create_pr: open a pull request instead; asked for once, as a second request would open another.

        Where the Hub refuses, nothing was changed; where it is away, calling again finds out whether it was done.
        """
        before: list[str | None] = []

        def attempt() -> Commit:
            info = self._api.repo_info(self.name, repo_type=self.kind)
            before.append(info.sha)
            there = [one.rfilename for one in info.siblings or ()]
            kept = CARD in there and CARD in files and _is_rendered(files[CARD]) and self._card_was_changed(info.sha)
            sent = {path: file for path, file in files.items() if path != CARD or not kept}
            others = [path for path in there if path not in files]
            changes = [
                *(CommitOperationAdd(path_in_repo=path, path_or_fileobj=str(file)) for path, file in sent.items()),
                *(CommitOperationDelete(path_in_repo=path, is_folder=False) for path in obsolete(others)),
            ]
            made = self._api.create_commit(
                self.name, changes, commit_message=message, parent_commit=info.sha, create_pr=create_pr,
                repo_type=self.kind,
            )  # fmt: skip
            return Commit(made.oid, made.oid != before[0], made.pr_url or made.commit_url, kept)

        def passes(error: BaseException) -> bool:
            crossed = isinstance(error, HfHubHTTPError) and error.response.status_code == _MOVED
            return not create_pr and (crossed or is_transient(error))

        try:
            return self._call("pushing to", attempt, passes=passes)
        except ValueError as error:
            if isinstance(error, InputError) or "LFS batch" not in str(error):
                raise
            raise InputError(self._refused_file(str(error), files)) from error

    def tag(self, tag: str, oid: str) -> None:
        """Let a tag name a commit; one that there is stays."""
        self._call(
            "tagging", self._api.create_tag, self.name, tag=tag, revision=oid, exist_ok=True, repo_type=self.kind
        )

    def _card_was_changed(self, revision: str | None) -> bool:
        address = hf_hub_url(self.name, CARD, repo_type=self.kind, revision=revision)
        answer = get_session().get(address, headers=build_hf_headers())
        hf_raise_for_status(answer)
        return bool(was_changed(answer.content.decode(errors="replace")))

    def _refused_file(self, said: str, files: Mapping[str, Path]) -> str:
        path = next((path for path, file in files.items() if _sha256(file) in said), "a file")
        reason = without_secrets(said.rpartition(": `")[2] or said).strip("`").rstrip(".")
        return f"pushing to {self.name}: the Hub does not take {path} ({reason})"

    def _call(self, doing: str, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        with one_line(self.name, doing):
            return call_with_retries(function, *args, what=f"{doing} {self.name}", attempts=self.attempts, **kwargs)


def _is_rendered(card: Path) -> bool:
    """Whether a card is as it was rendered, and not a user's own."""
    return was_changed(card.read_text(encoding="utf-8")) is False


def _is_same(file: Path, there: RepoFile) -> bool:
    return bool(_sha256(file) == there.lfs.sha256 if there.lfs else git_hash(file.read_bytes()) == there.blob_id)


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return file_digest(opened, "sha256").hexdigest()


def _objection(text: str, kind: str) -> str | None:
    """What the Hub says against a card; asked as the client's `RepoCard.validate` does, which before 2.0 asks
    huggingface.co whatever HF_ENDPOINT says."""
    body = {"repoType": kind, "content": text}
    answer = get_session().post(f"{constants.ENDPOINT}/api/validate-yaml", json=body, headers={"Accept": "text/plain"})
    if answer.status_code != 400:
        hf_raise_for_status(answer)
        return None
    try:
        return "; ".join(entry["message"] for entry in json.loads(answer.text)["errors"])
    except (ValueError, KeyError, TypeError):  # another form
        return str(answer.text)
