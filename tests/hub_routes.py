"""What a Hub answers: one function for each of its addresses.

Flow: hub_server (HTTP, faults) -> **hub_routes** -> hub_store (repositories).
Source: huggingface_hub 2.4 `hf_api.py`, `_commit_api.py`, `lfs.py`, `file_download.py`; the Git LFS batch API.
"""

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote

from tests.hub_store import Commit, HubError, Repo, User

if TYPE_CHECKING:
    from tests.hub_server import Hub

_LICENSES = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-sa-4.0", "other", "unknown")


@dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    file: Path | None = None

    @staticmethod
    def of(value: Any, status: int = 200, **headers: str) -> "Answer":
        return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json", **headers})


@dataclass
class Call:
    method: str
    named: dict[str, str]
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    user: User | None

    def json(self) -> Any:
        return json.loads(self.body or b"{}")


ROUTES: list[tuple[re.Pattern[str], tuple[str, ...], Any]] = []
_API = r"/api/(?P<type>models|datasets|spaces)/(?P<repo>[^/]+/[^/]+)"
_WEB = r"/(?P<type>datasets/|spaces/|)(?P<repo>[^/]+/[^/]+)"


def route(methods: str, pattern: str) -> Any:
    def keep(function: Any) -> Any:
        ROUTES.append((re.compile(pattern), tuple(methods.split()), function))
        return function

    return keep


def _prefix(type: str) -> str:
    return "" if type == "model" else f"{type}s/"


def _found(hub: "Hub", call: Call) -> Repo:
    return hub.store.find(call.named["type"], call.named["repo"], call.user)


def _entry(path: str, commit: Commit, expand: bool = False) -> dict[str, Any]:
    blob = commit.files[path]
    entry: dict[str, Any] = {"type": "file", "path": path, "size": blob.size, "oid": blob.git_oid}
    if blob.lfs:
        entry["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": 130}
    if expand:
        entry["lastCommit"] = {"id": commit.oid, "title": commit.title, "date": commit.date}
    return entry


def _folder(path: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()}


@route("GET", "/api/whoami-v2")
def _whoami(hub: "Hub", call: Call) -> Answer:
    if call.user is None:
        raise HubError(401, "Invalid username or password.")
    token = {"displayName": "tests", "role": "write" if call.user.write else "read"}
    role = call.user.role
    orgs = [{"type": "org", "name": name, "fullname": name, "roleInOrg": role} for name in call.user.orgs]
    name = call.user.name
    return Answer.of({"type": "user", "id": name, "name": name, "fullname": name, "orgs": orgs,
                      "auth": {"type": "access_token", "accessToken": token}})  # fmt: skip


@route("POST", "/api/repos/create")
def _create(hub: "Hub", call: Call) -> Answer:
    wanted = call.json()
    user = hub.must_write(call.user, wanted.get("organization"), f"create a {wanted.get('type') or 'model'}")
    type, repo_id = wanted.get("type") or "model", f"{wanted.get('organization') or user.name}/{wanted['name']}"
    told = {"url": f"{hub.endpoint}/{_prefix(type)}{repo_id}", "name": repo_id}
    try:
        hub.store.create(repo_id, type, wanted.get("visibility") == "private", user.name)
    except HubError as error:
        raise HubError(error.status, error.message, error.code, {**told, "error": error.message}) from error
    return Answer.of(told)


@route("DELETE", "/api/repos/delete")
def _delete(hub: "Hub", call: Call) -> Answer:
    wanted = call.json()
    user = hub.must_write(call.user, wanted.get("organization"), "delete a repository")
    repo_id = f"{wanted.get('organization') or user.name}/{wanted['name']}"
    repo = hub.store.find(wanted.get("type") or "model", repo_id, user)
    with hub.store.lock:
        del hub.store.repos[repo.type, repo.id]
        hub.store.save()
    return Answer()


@route("PUT", _API + "/settings")
def _settings(hub: "Hub", call: Call) -> Answer:
    repo = _found(hub, call)
    hub.must_write(call.user, repo.id, "change settings")
    with hub.store.lock:
        repo.private = call.json().get("visibility") == "private"
        hub.store.save()
    return Answer.of({"private": repo.private})


@route("GET", _API + r"(/revision/(?P<revision>[^/]+))?")
def _info(hub: "Hub", call: Call) -> Answer:
    repo = _found(hub, call)
    commit = repo.commit(call.named["revision"] or "main")
    siblings: list[dict[str, Any]] = [{"rfilename": path} for path in sorted(commit.files)]
    if "blobs" in call.query:
        for one in siblings:
            entry = _entry(one["rfilename"], commit)
            one.update(size=entry["size"], blobId=entry["oid"])
            if "lfs" in entry:
                one["lfs"] = {**entry["lfs"], "sha256": entry["lfs"]["oid"]}
    return Answer.of(
        {"_id": repo.id, "id": repo.id, "modelId": repo.id, "author": repo.id.split("/")[0], "sha": commit.oid,
         "private": repo.private, "gated": False, "disabled": False, "tags": [], "downloads": 0, "likes": 0,
         "createdAt": repo.created, "lastModified": commit.date, "siblings": siblings}
    )  # fmt: skip


@route("GET", _API + r"/tree/(?P<revision>[^/]+)(/(?P<path>.*))?")
def _tree(hub: "Hub", call: Call) -> Answer:
    commit = _found(hub, call).commit(call.named["revision"])
    folder = call.named["path"].strip("/")
    inside = [path for path in commit.files if not folder or path.startswith(f"{folder}/")]
    if folder and not inside:
        raise HubError(404, f"{folder} does not exist", "EntryNotFound")
    recursive, expand = call.query.get("recursive") == "true", call.query.get("expand") == "true"
    entries: dict[str, dict[str, Any]] = {}
    for path in inside:
        parts = path[len(folder) + 1 if folder else 0 :].split("/")
        for depth in range(1, len(parts) if recursive else min(2, len(parts))):
            name = "/".join([*([folder] if folder else []), *parts[:depth]])
            entries[name] = _folder(name)
        if recursive or len(parts) == 1:
            entries[path] = _entry(path, commit, expand)
    names = sorted(entries)
    start = int(call.query.get("cursor", 0))
    page = [entries[name] for name in names[start : start + hub.page_size]]
    headers = {}
    if start + hub.page_size < len(names):
        rest = "&".join(f"{key}={quote(value)}" for key, value in call.query.items() if key != "cursor")
        where = f"{hub.endpoint}/api/{call.named['type']}s/{call.named['repo']}/tree/"
        where += quote(call.named["revision"], safe="") + (f"/{quote(folder)}" if folder else "")
        headers = {"Link": f'<{where}?{rest}&cursor={start + hub.page_size}>; rel="next"'}
    return Answer.of(page, **headers)


@route("POST", _API + r"/paths-info/(?P<revision>[^/]+)")
def _paths_info(hub: "Hub", call: Call) -> Answer:
    commit = _found(hub, call).commit(call.named["revision"])
    asked = parse_qs(call.body.decode()).get("paths", [])
    found = [_entry(path, commit) for path in asked if path in commit.files]
    folders = [path for path in asked if any(name.startswith(f"{path}/") for name in commit.files)]
    return Answer.of([*found, *(_folder(path) for path in folders)])


@route("GET", _API + r"/commits/(?P<revision>[^/]+)")
def _commits(hub: "Hub", call: Call) -> Answer:
    return Answer.of(
        [{"id": one.oid, "title": one.title, "message": one.message, "date": one.date,
          "authors": [{"user": one.author}]} for one in _found(hub, call).history(call.named["revision"])]
    )  # fmt: skip


@route("GET", _API + "/refs")
def _refs(hub: "Hub", call: Call) -> Answer:
    told: dict[str, list[dict[str, str]]] = {"branches": [], "converts": [], "tags": [], "pullRequests": []}
    for name, oid in _found(hub, call).refs.items():
        kind = {"tags": "tags", "pr": "pullRequests"}.get(name.removeprefix("refs/").partition("/")[0], "branches")
        short = name.removeprefix("refs/tags/").removeprefix("refs/")
        told[kind].append({"name": short, "ref": name if "/" in name else f"refs/heads/{name}", "targetCommit": oid})
    return Answer.of(told)


@route("POST", _API + r"/(?P<kind>tag|branch)/(?P<name>[^/]+)")
def _new_ref(hub: "Hub", call: Call) -> Answer:
    repo, wanted = _found(hub, call), call.json()
    hub.must_write(call.user, repo.id, f"make a {call.named['kind']}")
    if call.named["kind"] == "tag":
        hub.store.set_ref(repo, f"refs/tags/{wanted['tag']}", call.named["name"])
    else:
        hub.store.set_ref(repo, call.named["name"], wanted.get("startingPoint", "main"))
    return Answer.of({})


@route("DELETE", _API + r"/(?P<kind>tag|branch)/(?P<name>[^/]+)")
def _drop_ref(hub: "Hub", call: Call) -> Answer:
    repo = _found(hub, call)
    hub.must_write(call.user, repo.id, f"delete a {call.named['kind']}")
    with hub.store.lock:
        name = call.named["name"]
        if repo.refs.pop(f"refs/tags/{name}" if call.named["kind"] == "tag" else name, None) is None:
            raise HubError(404, f"Invalid rev id: {name}", "RevisionNotFound")
        hub.store.save()
    return Answer.of({})


@route("GET", _API + "/discussions")
def _discussions(hub: "Hub", call: Call) -> Answer:
    repo = _found(hub, call)
    told = [
        pull | {"author": {"name": pull["author"]}, "isPullRequest": True, "repo": {"name": repo.id, "type": repo.type}}
        for pull in repo.pulls
        if call.query.get("author") in (None, pull["author"]) and call.query.get("status") in (None, pull["status"])
    ]
    return Answer.of({"discussions": told, "count": len(told), "start": 0})


@route("POST", "/api/validate-yaml")
def _validate(hub: "Hub", call: Call) -> Answer:
    errors = card_errors(call.json()["content"])
    return Answer.of({"errors": [{"message": one} for one in errors], "warnings": []}, 400 if errors else 200)


def card_errors(content: str) -> list[str]:
    """What the Hub would not have in the metadata of a card, as far as that can be told without a YAML parser."""
    if not content.startswith("---"):
        return []
    block, closed, _ = content[3:].partition("\n---")
    errors = [] if closed else ["the metadata block is not closed"]
    errors += [f"tab in line {number}" for number, line in enumerate(block.splitlines()) if "\t" in line[:8]]
    found = re.search(r"^license:\s*(\S+)", block, re.M)
    if found and found[1].strip("'\"") not in _LICENSES:
        errors.append(f'"license" must be one of [{", ".join(_LICENSES)}]')
    if re.search(r"^model-index:", block, re.M) and not re.search(r"^-?\s*- ?name:|^  name:|^- name:", block, re.M):
        errors.append('"model-index[0].name" is required')
    return errors


# --- uploads ----------------------------------------------------------------------------------------------------------
def _may_write(hub: "Hub", call: Call, repo: Repo) -> User:
    """Owners write; anybody with a write token may propose."""
    return hub.must_write(call.user, None if call.query.get("create_pr") == "1" else repo.id, "push")


@route("POST", _API + r"/preupload/(?P<revision>[^/]+)")
def _preupload(hub: "Hub", call: Call) -> Answer:
    repo = _found(hub, call)
    _may_write(hub, call, repo)
    present = repo.commit(call.named["revision"]).files
    told = []
    for file in call.json()["files"]:
        lfs = hub.store.is_lfs(file["path"], file["size"])
        if not lfs and file["size"] > hub.store.max_file_bytes:
            raise HubError(413, f"{file['path']} is too large: at most {hub.store.max_file_bytes} bytes.")
        old = present.get(file["path"])
        told.append({"path": file["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False,
                     "oid": old.oid if old else None})  # fmt: skip
    return Answer.of({"files": told})


@route("POST", _WEB + r"\.git/info/lfs/objects/batch")
def _batch(hub: "Hub", call: Call) -> Answer:
    repo = _found(hub, call)
    hub.must_write(call.user, None, "push")
    told, new = [], 0
    for wanted in call.json()["objects"]:
        one = {"oid": wanted["oid"], "size": wanted["size"]}
        if wanted["size"] > hub.store.max_file_bytes:
            one["error"] = {"code": 422, "message": f"File too large: at most {hub.store.max_file_bytes} bytes."}
        elif not hub.store.blob_path(wanted["oid"]).is_file():
            new += wanted["size"]
            one["actions"] = {"upload": {"href": f"{hub.storage or hub.endpoint}/-/lfs/{wanted['oid']}"}}
        told.append(one)
    limit = hub.store.max_storage_bytes
    if limit is not None and hub.store.stored_bytes(repo.id.split("/")[0]) + new > limit:
        raise HubError(403, f"Storage limit reached ({limit} bytes), please upgrade your plan to increase it")
    return Answer.of({"transfer": "basic", "objects": told})


@route("PUT", r"/-/lfs/(?P<oid>\w+)")
def _put(hub: "Hub", call: Call) -> Answer:
    if hashlib.sha256(call.body).hexdigest() != call.named["oid"]:
        raise HubError(400, "The content is not what was announced")
    hub.store.put_blob(call.body)
    return Answer()


@route("POST", _API + r"/commit/(?P<revision>[^/]+)")
def _commit(hub: "Hub", call: Call) -> Answer:
    repo = _found(hub, call)
    user = _may_write(hub, call, repo)
    header: dict[str, str] = {}
    changes: dict[str, str | None] = {}
    for line in call.body.splitlines():
        entry = json.loads(line)
        value = entry["value"]
        match entry["key"]:
            case "header":
                header = value
            case "file":
                content = base64.b64decode(value["content"])
                if value["path"] == "README.md" and (errors := card_errors(content.decode())):
                    raise HubError(400, f"Invalid metadata in README.md: {errors[0]}")
                changes[value["path"]] = hub.store.put_blob(content)
            case "lfsFile":
                changes[value["path"]] = value["oid"]
            case "deletedFile" | "deletedFolder":
                changes[value["path"].rstrip("/")] = None
            case other:
                raise HubError(400, f"No such operation: {other}")
    title, message, parent = header["summary"], header.get("description", ""), header.get("parentCommit")
    ref, told = call.named["revision"], {}
    repo.oid_of(ref)
    with hub.store.lock:
        if call.query.get("create_pr") == "1":
            number = hub.store.open_pull_request(repo, title, user.name, repo.oid_of(parent) if parent else None)
            ref, parent = f"refs/pr/{number}", None
            told["pullRequestUrl"] = f"{hub.endpoint}/{_prefix(repo.type)}{repo.id}/discussions/{number}"
        oid = hub.store.commit(repo, ref, title, message, user.name, changes, parent)
    url = f"{hub.endpoint}/{_prefix(repo.type)}{repo.id}/commit/{oid}"
    return Answer.of({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": "", **told})


# --- downloads --------------------------------------------------------------------------------------------------------
@route("GET HEAD", _WEB + r"/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
def _resolve(hub: "Hub", call: Call) -> Answer:
    commit = _found(hub, call).commit(call.named["revision"])
    headers = {"X-Repo-Commit": commit.oid}
    blob = commit.files.get(call.named["path"])
    if blob is None:
        error = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found", **headers}
        return Answer(404, b"Entry not found", error)
    headers |= {"ETag": f'"{blob.oid}"', "Accept-Ranges": "bytes"}
    if blob.lfs:
        headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(blob.size)}
        if hub.cdn:
            return Answer(302, b"", {**headers, "Location": f"http://localhost:{hub.port}/-/cdn/{blob.sha256}"})
    return _ranged(hub.store.blob_path(blob.sha256), call, headers)


@route("GET HEAD", r"/-/cdn/(?P<oid>\w+)")
def _from_cdn(hub: "Hub", call: Call) -> Answer:
    return _ranged(hub.store.blob_path(call.named["oid"]), call, {"ETag": f'"{call.named["oid"]}"'})


def _ranged(file: Path, call: Call, headers: dict[str, str]) -> Answer:
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", call.headers.get("range", ""))
    size = file.stat().st_size
    if asked is None or call.method == "HEAD":
        return Answer(200, b"", headers, file)
    first = int(asked[1]) if asked[1] else max(0, size - int(asked[2]))
    last = min(int(asked[2]), size - 1) if asked[1] and asked[2] else size - 1
    if first >= size:
        return Answer(416, b"", {"Content-Range": f"bytes */{size}"})
    with file.open("rb") as stream:
        stream.seek(first)
        body = stream.read(last - first + 1)
    return Answer(206, body, {**headers, "Content-Range": f"bytes {first}-{last}/{size}"})
