"""One repository on the Hub: who may write, what lies there, one commit, a tag. Each of it can be repeated.

Where it sits: `publish.py` and `background.py` -> **repository** -> huggingface_hub. The client repeats neither the
creation of a repository nor a commit, so it is done here; and as an answer may be lost after the work was done, every
attempt looks first at what is there: files that are the same are not sent, a commit without changes is not made, and
one names its parent, so that of two that crossed the Hub refuses the second.

Source: huggingface_hub `hf_api.py` (create_commit, list_repo_tree, list_repo_refs), Hub API.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import file_digest
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id
from huggingface_hub.utils.sha import git_hash

from mcl_hf.errors import InputError
from mcl_hf.hub.refusals import one_line
from mcl_hf.hub.tags import tag_is_taken
from mcl_hf.hub_token import token_variable
from mcl_hf.models.hub_retry import call_with_retries, without_secrets

MAX_FILE_BYTES = 50_000_000_000  # the Hub's limit of one file
_CROSSINGS = 5  # commits of others that may come between reading and writing, in one attempt
_EXISTS = 409
_MOVED = 412  # the answer where the parent is no longer the newest commit
T = TypeVar("T")


@dataclass(frozen=True)
class Commit:
    """What a branch, or a pull request, holds now.

    Attributes:
        oid: the newest commit.
        made: whether this call made it; False where all files were there.
        url: to look at.
    """

    oid: str
    made: bool
    url: str


def check_name(repository: str) -> None:
    """Refuse what cannot be a repository's name.

    Raises:
        InputError: naming the rule.
    """
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise InputError(f"{repository} is no name of a repository: write user/name or organisation/name")
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise InputError(f"{repository} is no name of a repository: {' '.join(str(error).split())}") from error


@dataclass
class Repository:
    """A model repository, as the user's token may use it.

    Attributes:
        name: `user/name`.
        attempts: of each request, where the Hub is away or busy.
    """

    name: str
    attempts: int = 6
    _api: HfApi = field(default_factory=HfApi, repr=False)

    # --- before anything is changed -----------------------------------------------------------------------------------
    def check(self, private: bool = False, create_pr: bool = False) -> bool:
        """Whether the repository exists; everything that would stand in the way of writing to it is refused.

        Args:
            private: it is wanted private.
            create_pr: a pull request is wanted, which needs no rights on the repository.

        Raises:
            InputError: name, token, permission, or a repository that does not fit.
            HubAwayError: the Hub cannot be reached.
        """
        check_name(self.name)
        if constants.HF_HUB_OFFLINE:
            raise InputError(f"HF_HUB_OFFLINE is set, and pushing to {self.name} needs the network: unset it")
        user = self._call("checking your token for", self._api.whoami)
        self._check_rights(user, create_pr)
        try:
            info = self._call("looking at", self._api.model_info, self.name)
        except InputError as error:
            if not isinstance(error.__cause__, RepositoryNotFoundError):
                raise
            if create_pr:
                raise InputError(
                    f"--create-pr needs a repository that is there, and {self.name} is none that your token may see"
                ) from error
            return False
        if private and not info.private:
            raise InputError(
                f"{self.name} is there, and public: leave --private out, or make it private in its settings first"
            )
        return True

    def check_card(self, text: str) -> None:
        """Let the Hub check a card.

        Raises:
            InputError: it does not take it; the message is the Hub's.
        """
        try:
            self._call("checking the card of", ModelCard(text, ignore_metadata_errors=True).validate)
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"the Hub does not take the card of {self.name}: {_said_of_card(str(error))}") from error

    def _check_rights(self, user: Mapping[str, Any], create_pr: bool) -> None:
        role = user.get("auth", {}).get("accessToken", {}).get("role")
        if role == "read":
            variable = token_variable()
            then = f"put it into {variable}" if variable else "log in with 'hf auth login'"
            raise InputError(f"your token may only read: make one that may write to {self.name}, and {then}")
        own = [user["name"], *(entry["name"] for entry in user.get("orgs", []))]
        owner = self.name.split("/")[0]
        if not create_pr and owner.lower() not in (name.lower() for name in own):
            raise InputError(
                f"no permission: you are {user['name']} and may publish under {', '.join(own)}, not under {owner}; "
                "to propose a change there, use --create-pr"
            )

    # --- what is there ------------------------------------------------------------------------------------------------
    def head(self, revision: str = "main") -> tuple[str | None, dict[str, RepoFile]]:
        """The newest commit (None: there is none yet) and its files by path. One attempt."""
        oid = self._api.model_info(self.name, revision=revision).sha
        if oid is None:
            return None, {}
        entries = self._api.list_repo_tree(self.name, revision=oid, recursive=True)
        return oid, {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}

    def head_oid(self) -> str | None:
        """The newest commit."""
        return self._call("reading", self._api.model_info, self.name).sha

    def files(self) -> dict[str, RepoFile]:
        """Files of the newest commit by path."""
        return self._call("reading", self.head)[1]

    def holds(self, files: Mapping[str, Path], obsolete: Callable[[str], bool]) -> bool:
        """Whether the newest commit has nothing to be changed in; see `commit`."""
        return not _changes({path: LocalFile(file) for path, file in files.items()}, self.files(), obsolete)

    def tags(self) -> dict[str, str]:
        """Tag -> commit."""
        refs = self._call("reading the tags of", self._api.list_repo_refs, self.name)
        return {ref.name: ref.target_commit for ref in refs.tags}

    # --- what changes -------------------------------------------------------------------------------------------------
    def create(self, private: bool = True) -> None:
        """Make the repository.

        Raises:
            InputError: no permission, or the name is taken by one that the token may not see.
        """
        asked = False

        def attempt() -> None:
            nonlocal asked
            again, asked = asked, True
            try:
                self._api.create_repo(self.name, private=private)
            except HfHubHTTPError as error:
                if error.response.status_code != _EXISTS or not again:  # else the answer to the first was lost
                    raise

        self._call("making", attempt)

    def commit(
        self,
        files: Mapping[str, Path],
        message: str,
        obsolete: Callable[[str], bool],
        create_pr: bool = False,
    ) -> Commit:
        """Bring the repository to hold these files, in one commit, or none where it does.

        Args:
            files: path in the repository -> file here.
            message: title of the commit.
            obsolete: whether a path that is there, and not in `files`, is to go.
            create_pr: open a pull request instead; one that an attempt before has opened is found again.

        Raises:
            InputError: the Hub refuses it; nothing was changed.
            HubAwayError: whether it was done is not known; calling again finds out.
        """
        local = {path: LocalFile(file) for path, file in files.items()}
        earlier = self._pull_requests() if create_pr else set()
        sent: list[str | None] = []  # heads that a commit was sent on top of

        def attempt() -> Commit:
            return self._attempt(local, message, obsolete, create_pr, earlier, sent)

        try:
            return self._call("pushing to", attempt)
        except ValueError as error:
            if isinstance(error, InputError) or "LFS batch" not in str(error):
                raise
            raise InputError(self._refused_file(str(error), local)) from error

    def tag(self, tag: str, oid: str) -> None:
        """Let a tag name a commit.

        Raises:
            InputError: it names another one.
        """

        def attempt() -> None:
            refs = self._api.list_repo_refs(self.name)
            known = {ref.name: ref.target_commit for ref in refs.tags}.get(tag)
            if known is None:
                self._api.create_tag(self.name, tag=tag, revision=oid)
            elif known != oid:
                raise InputError(tag_is_taken(self.name, tag))

        self._call("tagging", attempt)

    def _attempt(
        self,
        local: Mapping[str, "LocalFile"],
        message: str,
        obsolete: Callable[[str], bool],
        create_pr: bool,
        earlier: set[str],
        sent: list[str | None],
    ) -> Commit:
        for reference in sorted(self._pull_requests_now() - earlier) if create_pr else ():
            oid, there = self.head(reference)
            if oid is not None and not _changes(local, there, obsolete):  # the answer to an attempt before was lost
                return Commit(oid, True, self._discussion(reference))
        for _ in range(_CROSSINGS):
            oid, there = self.head()
            changes = _changes(local, there, obsolete)
            if oid is not None and not changes:
                return Commit(oid, bool(sent) and oid not in sent, f"{self._api.endpoint}/{self.name}")
            sent.append(oid)
            try:
                made = self._api.create_commit(
                    self.name, changes, commit_message=message, parent_commit=oid, create_pr=create_pr
                )
            except HfHubHTTPError as error:
                if error.response.status_code != _MOVED:
                    raise
                continue
            return Commit(made.oid, True, made.pr_url or made.commit_url)
        raise InputError(f"others are committing to {self.name} all the time: try again later")

    def _pull_requests(self) -> set[str]:
        return self._call("reading the pull requests of", self._pull_requests_now)

    def _pull_requests_now(self) -> set[str]:
        refs = self._api.list_repo_refs(self.name, include_pull_requests=True)
        return {ref.ref for ref in refs.pull_requests or ()}

    def _discussion(self, reference: str) -> str:
        return f"{self._api.endpoint}/{self.name}/discussions/{reference.rsplit('/', 1)[1]}"

    def _refused_file(self, said: str, local: Mapping[str, "LocalFile"]) -> str:
        path = next((path for path, file in local.items() if file.sha256() in said), "a file")
        reason = without_secrets(said.rpartition(": `")[2] or said).strip("`").rstrip(".")
        return f"pushing to {self.name}: the Hub does not take {path} ({reason})"

    def _call(self, doing: str, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        with one_line(self.name, doing):
            return call_with_retries(function, *args, what=f"{doing} {self.name}", attempts=self.attempts, **kwargs)


@dataclass
class LocalFile:
    """A file here, whose hashes are made when they are asked for, once."""

    path: Path
    _sha256: str | None = None
    _git_oid: str | None = None

    def equals(self, other: RepoFile) -> bool:
        """Whether the Hub holds the same bytes."""
        if other.size != self.path.stat().st_size:
            return False
        return self.sha256() == other.lfs.sha256 if other.lfs is not None else self.git_oid() == other.blob_id

    def sha256(self) -> str:
        """In hexadecimal; the Hub names large files by it."""
        if self._sha256 is None:
            with self.path.open("rb") as file:
                self._sha256 = file_digest(file, "sha256").hexdigest()
        return self._sha256

    def git_oid(self) -> str:
        """Git's name of the content; the Hub names small files by it."""
        if self._git_oid is None:
            self._git_oid = git_hash(self.path.read_bytes())
        return self._git_oid


def _said_of_card(answer: str) -> str:
    """The messages in the Hub's answer, or the answer where it has another form."""
    try:
        said = "; ".join(entry["message"] for entry in json.loads(answer)["errors"])
    except (ValueError, KeyError, TypeError):
        said = answer
    return without_secrets(said)


def _changes(
    local: Mapping[str, LocalFile], there: Mapping[str, RepoFile], obsolete: Callable[[str], bool]
) -> list[CommitOperationAdd | CommitOperationDelete]:
    """What makes the repository hold the files: only what differs."""
    added = [path for path, file in local.items() if path not in there or not file.equals(there[path])]
    gone = [path for path in there if path not in local and obsolete(path)]
    return [
        *(CommitOperationAdd(path_in_repo=path, path_or_fileobj=str(local[path].path)) for path in added),
        *(CommitOperationDelete(path_in_repo=path, is_folder=False) for path in gone),
    ]


__all__ = ["MAX_FILE_BYTES", "Commit", "Repository", "check_name"]
