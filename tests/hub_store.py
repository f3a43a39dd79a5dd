"""What a Hub keeps: users, repositories, commits, refs and files, in a folder that outlives the server's process.

Flow: hub_server (HTTP) -> **hub_store** -> ROOT/blobs/SHA256 and ROOT/state.json. A commit is a whole table of files.
"""

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

LFS_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".onnx", ".parquet", ".tar", ".png", ".jpg")
LFS_FROM_BYTES = 10_000_000
FORBIDDEN_REF = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|^@$|^-|^/|/$|\.$|(^|/)\.|\.lock(/|$)")  # git's rules
ATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()


class HubError(Exception):
    """An answer other than 200: status, message, and the code by which the client tells 404s apart."""

    def __init__(self, status: int, message: str, code: str | None = None, body: dict | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.body = status, message, code, body


@dataclass(frozen=True)
class User:
    name: str
    write: bool = True
    orgs: tuple[str, ...] = ()
    role: str = "admin"  # in all of them

    def owns(self, repo_id: str) -> bool:
        return repo_id.split("/")[0] in (self.name, *self.orgs)


USERS = {
    "hf_alice": User("alice", orgs=("lab",)),
    "hf_bob": User("bob"),
    "hf_guest": User("guest", orgs=("lab",), role="read"),
    "hf_reader": User("alice", write=False, orgs=("lab",)),  # a token of alice that may only read
}


@dataclass
class Blob:
    """A file as a commit names it; `oid` is git's name of it, or the content's SHA-256 where it lies in LFS."""

    sha256: str
    size: int
    git_oid: str
    lfs: bool

    @property
    def oid(self) -> str:
        return self.sha256 if self.lfs else self.git_oid


@dataclass
class Commit:
    oid: str
    parent: str | None
    title: str
    message: str
    author: str
    date: str
    files: dict[str, Blob]


@dataclass
class Repo:
    """`refs` are branches by name, `refs/pr/N` and `refs/tags/NAME`; `pulls` are the titles of pull requests."""

    id: str
    type: str
    private: bool
    created: str
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    pulls: list[dict] = field(default_factory=list)

    def oid_of(self, revision: str) -> str:
        for name in (revision, f"refs/tags/{revision}"):
            if name in self.refs:
                return self.refs[name]
        whole = [oid for oid in self.commits if len(revision) >= 7 and oid.startswith(revision)]
        if len(whole) != 1:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return whole[0]

    def commit(self, revision: str = "main") -> Commit:
        return self.commits[self.oid_of(revision)]

    def history(self, revision: str = "main") -> list[Commit]:
        """Newest first."""
        found: list[Commit] = []
        oid: str | None = self.oid_of(revision)
        while oid is not None:
            found.append(self.commits[oid])
            oid = found[-1].parent
        return found


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


class Store:
    """Every public method is one transaction; the state on the disk is that after the last one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lock = threading.RLock()
        self.repos: dict[tuple[str, str], Repo] = {}
        self.max_file_bytes = 50_000_000_000
        self.max_storage_bytes: int | None = None
        (root / "blobs").mkdir(parents=True, exist_ok=True)
        if (root / "state.json").is_file():
            for repo in json.loads((root / "state.json").read_text()):
                commits = {
                    oid: Commit(**{**commit, "files": {path: Blob(**blob) for path, blob in commit["files"].items()}})
                    for oid, commit in repo.pop("commits").items()
                }
                self.repos[repo["type"], repo["id"]] = Repo(**repo, commits=commits)

    def save(self) -> None:
        new = self.root / "state.json.new"
        new.write_text(json.dumps([asdict(repo) for repo in self.repos.values()]))
        new.replace(self.root / "state.json")

    def clear(self) -> None:
        with self.lock:
            self.repos.clear()
            for path in (self.root / "blobs").iterdir():
                path.unlink()
            self.save()

    # --- contents -----------------------------------------------------------------------------------------------------
    def blob_path(self, sha256: str) -> Path:
        return self.root / "blobs" / sha256

    def put_blob(self, content: bytes) -> str:
        sha256 = hashlib.sha256(content).hexdigest()
        new = self.root / f"blobs/{sha256}.{threading.get_ident()}"
        new.write_bytes(content)
        new.replace(self.blob_path(sha256))
        return sha256

    def blob(self, path: str, sha256: str) -> Blob:
        content = self.blob_path(sha256).read_bytes()
        git_oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        return Blob(sha256, len(content), git_oid, self.is_lfs(path, len(content)))

    def is_lfs(self, path: str, size: int) -> bool:
        return size > 0 and (path.lower().endswith(LFS_SUFFIXES) or size >= LFS_FROM_BYTES)

    def read(self, repo_id: str, path: str, revision: str = "main", type: str = "model") -> bytes:
        return self.blob_path(self.repos[type, repo_id].commit(revision).files[path].sha256).read_bytes()

    # --- repositories -------------------------------------------------------------------------------------------------
    def create(self, repo_id: str, type: str = "model", private: bool = False, author: str = "") -> Repo:
        with self.lock:
            if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", repo_id):
                raise HubError(400, f'Invalid repository name "{repo_id}"')
            if (type, repo_id) in self.repos:
                raise HubError(409, f"You already created this {type} repo: {repo_id}")
            repo = self.repos[type, repo_id] = Repo(repo_id, type, private, now())
            files = {".gitattributes": self.blob(".gitattributes", self.put_blob(ATTRIBUTES))}
            self._add(repo, "main", None, "initial commit", "", author, files)
            self.save()
            return repo

    def add(
        self, repo_id: str, files: Mapping[str, bytes], type: str = "model", private: bool = False, title: str = "add"
    ) -> str:
        """Make a repository where it is not there, and one commit: for tests that need contents, not an upload."""
        with self.lock:
            repo = self.repos.get((type, repo_id)) or self.create(repo_id, type, private)
            changes = {path: self.put_blob(content) for path, content in files.items()}
            return self.commit(repo, "main", title, "", "", changes)

    def find(self, type: str, repo_id: str, user: User | None) -> Repo:
        """The repository, where this user may see it: who may not is told nothing about it."""
        repo = self.repos.get((type, repo_id))
        if repo is not None and (not repo.private or (user is not None and user.owns(repo_id))):
            return repo
        if user is None:
            raise HubError(401, "Invalid username or password.", "RepoNotFound")
        raise HubError(404, "Repository not found", "RepoNotFound")

    # --- commits ------------------------------------------------------------------------------------------------------
    def commit(
        self,
        repo: Repo,
        ref: str,
        title: str,
        message: str,
        author: str,
        changes: Mapping[str, str | None],
        parent: str | None = None,
    ) -> str:
        """Add files by SHA-256 of their content, which must be stored; None deletes a file or a folder.

        Raises:
            HubError: 412 where `parent` is no longer the newest commit; 404 and 400 for what there is not.
        """
        with self.lock:
            head = repo.oid_of(ref)
            if parent is not None and not head.startswith(parent):
                raise HubError(412, "A commit has happened since. Please refresh and try again.")
            files = dict(repo.commits[head].files)
            for path, sha256 in changes.items():
                if sha256 is None:
                    gone = [name for name in files if name == path or name.startswith(f"{path}/")]
                    files = {name: blob for name, blob in files.items() if name not in gone}
                elif not self.blob_path(sha256).is_file():
                    raise HubError(400, f"LFS pointer pointed to a file that does not exist: {path}")
                else:
                    files[path] = self.blob(path, sha256)
            oid = self._add(repo, ref, head, title, message, author, files)
            self.save()
            return oid

    def open_pull_request(self, repo: Repo, title: str, author: str, base: str | None) -> int:
        with self.lock:
            number = len(repo.pulls) + 1
            repo.refs[f"refs/pr/{number}"] = base or repo.oid_of("main")
            repo.pulls.append({"num": number, "title": title, "author": author, "createdAt": now(), "status": "open"})
            return number

    def set_ref(self, repo: Repo, name: str, revision: str) -> None:
        with self.lock:
            if FORBIDDEN_REF.search(name.removeprefix("refs/tags/")):
                raise HubError(400, f"Invalid ref name: {name}")
            if name in repo.refs:
                raise HubError(409, "Reference already exists")
            repo.refs[name] = repo.oid_of(revision)
            self.save()

    def stored_bytes(self, owner: str) -> int:
        """Of all LFS files of an owner, each counted once."""
        repos = [repo for repo in self.repos.values() if repo.id.split("/")[0] == owner]
        blobs = [blob for repo in repos for commit in repo.commits.values() for blob in commit.files.values()]
        return sum({blob.sha256: blob.size for blob in blobs if blob.lfs}.values())

    def _add(
        self, repo: Repo, ref: str, parent: str | None, title: str, message: str, author: str, files: dict[str, Blob]
    ) -> str:
        key = json.dumps([repo.id, repo.type, len(repo.commits), parent, title, sorted(files)])
        oid = hashlib.sha1(key.encode()).hexdigest()
        repo.commits[oid] = Commit(oid, parent, title, message, author, now(), files)
        repo.refs[ref] = oid
        return oid
