"""One repository on the Hub: who may write, what lies there, one commit, a tag. Each of it can be repeated.

Where it sits: `publish.py` and `background.py` -> **repository** -> huggingface_hub. The client repeats neither the
creation of a repository nor a commit, so it is done here. A commit names its parent: of two that crossed, the Hub
refuses the second, which is then made anew. What the Hub or its client refuses, in many types whose texts span lines
and hold addresses, becomes one line without a token: an `InputError`, or a `HubAwayError` where later may help.

Source: huggingface_hub `hf_api.py` (create_commit, model_info, create_tag), `errors.py`, `utils/_http.py`, Hub API.
"""

import itertools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status, validate_repo_id
from huggingface_hub.utils.sha import git_hash

from ..engine.state import file_hash
from ..errors import InputError
from ..files import was_changed
from ..hub_token import mend_the_token, token_variable
from ..retry import call_with_retries, chain, is_of_http, is_transient, reason_of, without_secrets

CARD = "README.md"
CARD_KEPT = "README.md was changed there since it was written, and stays; delete it there to have it written anew"
MAX_FILE_BYTES = 50_000_000_000  # the Hub's limit of one file
_MOVED = 412  # the answer where the parent is no longer the newest commit
T = TypeVar("T")


class HubAwayError(InputError):
    """The Hub did not answer, or had no time: the same may work later."""


@dataclass(frozen=True)
class Commit:
    """The newest commit `oid` of a branch, or of a pull request, and its address; whether this call `made` it, or all
    files were there; whether the card that is there was kept, as somebody has changed it since it was written."""

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
    """A repository `user/name`, of a `model` or a `space`, as the user's token may use it.

    Every method raises `InputError` where the Hub refuses something, and `HubAwayError` where it cannot be reached in
    so many attempts of a request.
    """

    name: str
    attempts: int = 6
    kind: str = "model"
    _api: HfApi = field(default_factory=HfApi, repr=False)

    # --- before anything is changed -----------------------------------------------------------------------------------
    def check(self, private: bool, create_pr: bool = False) -> bool:
        """Whether the repository exists; everything that would stand in the way of writing to it is refused, or for
        `create_pr` of a pull request, which needs no rights; also one that is public where it is wanted private."""
        check_name(self.name)
        if constants.HF_HUB_OFFLINE:
            raise InputError(f"HF_HUB_OFFLINE is set, and pushing to {self.name} needs the network: unset it")
        self._check_rights(self._call("checking your token for", self._api.whoami), create_pr)
        if not self._call("looking at", self._api.repo_exists, self.name, repo_type=self.kind):
            if not create_pr:
                return False
            raise InputError(
                f"--create-pr needs a repository that is there, and {self.name} is none that your token may see"
            )
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
        if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
            variable = token_variable()
            then = f"put it into {variable}" if variable else "log in with 'hf auth login'"
            raise InputError(f"your token may only read: make one that may write to {self.name}, and {then}")
        if create_pr:
            return
        owner, organisations = self.name.split("/")[0], user.get("orgs", [])
        read_only = [entry["name"].lower() for entry in organisations if entry.get("roleInOrg") == "read"]
        if owner.lower() in read_only:
            raise InputError(
                f"no permission: {user['name']} may only read in {owner}; ask there for the right to write, or propose "
                "a change with --create-pr"
            )
        own = [user["name"], *(entry["name"] for entry in organisations)]
        if owner.lower() not in map(str.lower, own):
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
        tree = self._api.list_repo_tree
        found = self._call("reading", lambda: list(tree(self.name, recursive=True, repo_type=self.kind)))
        there = {entry.path: entry for entry in found if isinstance(entry, RepoFile)}
        return all(path in there and _is_same(file, there[path]) for path, file in files.items())

    def tags(self) -> dict[str, str]:
        """Tag -> commit."""
        refs = self._call("reading the tags of", self._api.list_repo_refs, self.name, repo_type=self.kind)
        return {ref.name: ref.target_commit for ref in refs.tags}

    # --- what changes -------------------------------------------------------------------------------------------------
    def create(self, private: bool) -> None:
        """Make the repository; a name that is taken, by what the token may not see, is refused."""
        exist_ok = itertools.chain([False], itertools.repeat(True))  # again: the answer to the first was lost

        def attempt() -> None:
            self._api.create_repo(
                self.name, private=private, exist_ok=next(exist_ok), repo_type=self.kind,
                space_sdk="gradio" if self.kind == "space" else None,
            )  # fmt: skip

        self._call("making", attempt)

    def commit(
        self, files: Mapping[str, Path], message: str, obsolete: Callable[[list[str]], Iterable[str]],
        create_pr: bool = False,
    ) -> Commit:  # fmt: skip
        """Bring the repository to hold these files, by their paths there, in one commit, or none where it does.
        `obsolete` says which of the other paths that are there are to go.

        Not by `upload_folder`, which makes several commits of large files where Xet is installed. The client leaves out
        files that are there already, so a repeated attempt whose answer was lost makes no second commit; a pull request
        is asked for once, as a second request would open another. A card that was changed on the Hub is not replaced
        by one that was rendered. Where the Hub refuses, nothing was changed; where it is away, calling again finds out
        whether it was done.
        """
        before: list[str | None] = []

        def attempt() -> Commit:
            info = self._api.repo_info(self.name, repo_type=self.kind)
            before.append(info.sha)
            there = [one.rfilename for one in info.siblings or ()]
            rendered = CARD in files and was_changed(files[CARD].read_text(encoding="utf-8")) is False
            kept = rendered and CARD in there and self._card_was_changed(info.sha)
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
            said = str(error)
            if isinstance(error, InputError) or "LFS batch" not in said:
                raise
            path = next((path for path, file in files.items() if file_hash(file) in said), "a file")
            reason = without_secrets(said.rpartition(": `")[2] or said).strip("`").rstrip(".")
            raise InputError(f"pushing to {self.name}: the Hub does not take {path} ({reason})") from error

    def tag(self, tag: str, oid: str) -> None:
        """Let a tag name a commit; one that there is stays."""
        about = {"tag": tag, "revision": oid, "exist_ok": True, "repo_type": self.kind}
        self._call("tagging", self._api.create_tag, self.name, **about)

    def _card_was_changed(self, revision: str | None) -> bool:
        address = hf_hub_url(self.name, CARD, repo_type=self.kind, revision=revision)
        answer = get_session().get(address, headers=build_hf_headers())
        hf_raise_for_status(answer)
        return bool(was_changed(answer.content.decode(errors="replace")))

    def _call(self, doing: str, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        what = f"{doing} {self.name}"
        try:
            return call_with_retries(function, *args, what=what, attempts=self.attempts, **kwargs)
        except InputError:
            raise
        except Exception as error:
            told = _refusal(error, what)
            if told is None:
                raise
            raise (HubAwayError if is_transient(error) else InputError)(without_secrets(told)) from error


def _is_same(file: Path, there: RepoFile) -> bool:
    return bool(file_hash(file) == there.lfs.sha256 if there.lfs else git_hash(file.read_bytes()) == there.blob_id)


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


def _refusal(error: Exception, doing: str) -> str | None:
    """What the client raises, as one line; None where it is no matter of the Hub. `doing` is what was tried, as in
    "reading user/name"."""
    if is_transient(error):
        if isinstance(error, HfHubHTTPError):
            return f"{doing}: {reason_of(error)}; try again later"
        return f"{doing}: {constants.ENDPOINT} cannot be reached ({reason_of(error)})"
    if isinstance(error, LocalTokenNotFoundError):
        return "there is no token for the Hub: log in with 'hf auth login', or set HF_TOKEN"
    for one in chain(error) if isinstance(error, RuntimeError) else [error]:  # so it wraps what storage answers
        if isinstance(one, HfHubHTTPError):
            return _answer(one, doing)
        if is_of_http(one):  # redirects without end, an address that is none
            return f"{doing}: {type(one).__name__} {one}"
    return None


def _answer(error: HfHubHTTPError, doing: str) -> str:
    status, headers = error.response.status_code, error.response.headers
    said = error.server_message or headers.get("X-Error-Message") or error.response.reason_phrase
    said = " ".join(str(said).split()).rstrip(".")[:300]
    if status == 401 and "whoami" in str(error.response.url):
        return f"the Hub does not know your token; {mend_the_token()}"
    if headers.get("X-Error-Code") == "GatedRepo":
        return f"{doing}: it is gated: ask for access on its page, and use a token of an account that has it"
    if status == 401 or headers.get("X-Error-Code") == "RepoNotFound":
        return f"{doing}: there is no such repository that your token may see"
    if status == 409:
        return f"{doing}: the name is taken, by what your token may not see ({said}); choose another"
    told = {403: "the Hub forbids it", 413: "too large for the Hub"}.get(status, f"the Hub answers {status}")
    return f"{doing}: {told} ({said})"
