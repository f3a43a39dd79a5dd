"""What goes wrong while pushing: each fault, what the user sees, and what is on the Hub afterwards.

Every row runs the real command in a process of its own against the tests' Hub. Whatever happens, the Hub holds a whole
release or none, and no token is shown.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from tests.hub_server import Hub

COMMIT, CREATE, WHOAMI, TAG = r"/commit/", r"/repos/create", r"/whoami", r"/tag/"
NOTHING = "nothing"
EMPTY = "alice/net: empty"
RELEASE = "alice/net: 1 release, v1"
UNTAGGED = "alice/net: 1 release"
BAD_CARD = "---\nlicense: [apache-2.0\n---\n\n# broken\n"
GOOD_CARD = "---\nlicense: apache-2.0\n---\n\n# whole\n"


@dataclass(frozen=True)
class Row:
    """One fault.

    Attributes:
        fault: in words.
        says: regular expression that the output has.
        after: state of the Hub, as `state_of` words it.
        prepare: what is there, or fails.
        arguments: of the command, behind the folder and the repository.
        again: state of the Hub after the same command once more, with faults over; "" where it is not run.
    """

    fault: str
    says: str
    after: str
    prepare: Callable[[Hub], object] = lambda hub: None
    arguments: tuple[str, ...] = ()
    repository: str = "alice/net"
    token: str | None = "hf_alice"
    code: int = 2
    again: str = ""
    environment: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.fault


def heals(fault: str, prepare: Callable[[Hub], object], says: str = "") -> Row:
    """A fault after which the push comes through as if nothing had been."""
    return Row(fault, says + r"published: alice/net at v1", RELEASE, prepare, code=0)


def fails(kind: str, path: str, method: str = "POST", **options) -> Callable[[Hub], object]:
    return lambda hub: hub.fault(kind, method, path, **options)


def holds(repository: str, content: bytes = b"theirs", private: bool = False, tag: str = "", type: str = "model"):
    def prepare(hub: Hub) -> None:
        hub.store.add(repository, {"notes.txt": content}, type=type, private=private)
        if tag:
            repo = hub.store.repos[type, repository]
            hub.store.set_ref(repo, f"refs/tags/{tag}", "main")
            hub.store.add(repository, {"notes.txt": b"newer"}, type=type)

    return prepare


def limit(name: str, value: int) -> Callable[[Hub], object]:
    return lambda hub: setattr(hub.store, name, value)


def then(*steps: Callable[[Hub], object]) -> Callable[[Hub], object]:
    return lambda hub: [step(hub) for step in steps]


UNTOUCHED = "Nothing was changed on the Hub"
ROWS = [
    # --- who and where ------------------------------------------------------------------------------------------------
    Row("no token", r"there is no token for the Hub: log in.*" + UNTOUCHED, NOTHING, token=None),
    Row(
        "wrong token",
        r"does not know your token; mend or unset HF_TOKEN, where it comes from\. " + UNTOUCHED,
        NOTHING,
        token="hf_wrong",
    ),
    Row(
        "token that may only read",
        r"your token may only read: .* put it into HF_TOKEN.*" + UNTOUCHED,
        NOTHING,
        token="hf_reader",
    ),
    Row(
        "another user's name",
        r"you are alice and may publish under alice, lab, not under bob",
        NOTHING,
        repository="bob/net",
    ),
    Row(
        "an organisation that one may only read",
        r"no permission: guest may only read in lab; .*--create-pr\. " + UNTOUCHED,
        "lab/net: 1 other",
        holds("lab/net"),
        repository="lab/net",
        token="hf_guest",
    ),
    Row(
        "token without the right to make it",
        r"making alice/net: the Hub forbids it \(made to fail\).*" + UNTOUCHED,
        NOTHING,
        fails("status", CREATE, status=403),
    ),
    Row("no name of a repository", r"net is no name of a repository: write user/name", NOTHING, repository="net"),
    Row(
        "a name that the Hub does not have",
        r"alice/a--b is no name of a repository: Cannot have -- or \.\. in repo_id",
        NOTHING,
        repository="alice/a--b",
    ),
    Row(
        "name of a repository that the token may not see",
        r"making alice/net: the name is taken, by what your token may not see.*" + UNTOUCHED,
        NOTHING,
        fails("status", CREATE, status=409),
    ),
    Row(
        "name of a data set",
        r"published: alice/net at v1",
        "dataset alice/net: 1 commit; " + RELEASE,
        holds("alice/net", type="dataset"),
        code=0,
    ),
    Row(
        "public repository, --private",
        r"alice/net is there, and public: leave --private out",
        "alice/net: 1 other",
        holds("alice/net"),
        ("--private",),
    ),
    Row(
        "tag of an earlier release",
        r"tag v1 of alice/net is taken by an earlier release.*" + UNTOUCHED,
        "alice/net: 2 other, v1",
        holds("alice/net", tag="v1"),
        ("--tag", "v1"),
    ),
    Row(
        "HF_HUB_OFFLINE=1",
        r"HF_HUB_OFFLINE is set, and pushing to alice/net needs the network",
        NOTHING,
        environment={"HF_HUB_OFFLINE": "1"},
    ),
    # --- what is sent -------------------------------------------------------------------------------------------------
    Row("card whose metadata are no YAML", r"header does not parse", NOTHING, arguments=("--card", "bad.md")),
    Row(
        "card that the Hub does not take",
        r"the Hub does not take the card of alice/net: \"license\" must be one of .*" + UNTOUCHED,
        NOTHING,
        arguments=("--license", "my-own"),
    ),
    Row(
        "weights too large for the Hub",
        r"does not take model.safetensors \(File too large: at most 9999 bytes\).*alice/net is new and empty",
        EMPTY,
        limit("max_file_bytes", 9999),
        again=RELEASE,
    ),
    Row(
        "no storage left",
        r"the Hub forbids it \(Storage limit reached .*alice/net is new and empty",
        EMPTY,
        limit("max_storage_bytes", 9999),
        again=RELEASE,
    ),
    # --- faulty connections that heal ---------------------------------------------------------------------------------
    heals("503 at the token", fails("status", WHOAMI, "GET", count=2)),
    heals(
        "429 with Retry-After at the token",
        fails("status", WHOAMI, "GET", status=429, retry_after=3),
        r"429.* in 3 s.*",
    ),
    heals("reset at model info", fails("reset", r"/api/models/alice/net$", "GET")),
    heals("503 at the making", fails("status", CREATE, count=2)),
    heals("answer to the making lost", fails("lose", CREATE)),
    heals("503 at the check of the card", fails("status", "/validate-yaml", count=2)),
    heals("reset in the upload of weights", fails("reset", "/-/lfs/", "PUT")),
    heals("upload's answer lost", fails("lose", "/-/lfs/", "PUT", reset=True)),
    heals("503 at the commit", fails("status", COMMIT, count=3)),
    heals("reset at the commit", fails("reset", COMMIT)),
    heals("connection closed at the commit", fails("close", COMMIT)),
    heals("answer to the commit lost", fails("lose", COMMIT)),
    heals(
        "answer to the commit lost by a reset, and the look at what is there too",
        then(fails("lose", COMMIT, reset=True), fails("reset", r"/api/models/alice/net$", "GET", skip=2)),
    ),
    heals("answer to the commit cut off", fails("truncate", COMMIT)),
    heals("somebody else commits in between", fails("status", COMMIT, status=412)),
    heals("answer to the tag lost", fails("lose", TAG)),
    heals("slow answers", fails("slow", "", "", count=4, delay_s=0.3)),
    Row(
        "answer to a pull request lost",
        r"alice/net is as it was \(or holds the whole release\)",
        "alice/net: 1 other, 1 pull request",
        then(holds("alice/net"), fails("lose", COMMIT)),
        ("--create-pr",),
        token="hf_bob",
    ),
    # --- those that do not --------------------------------------------------------------------------------------------
    Row(
        "Hub cannot be reached",
        r"cannot be reached \(ConnectError.*" + UNTOUCHED,
        NOTHING,
        lambda hub: hub.go_away(),
        again=RELEASE,
    ),
    Row(
        "503 for good",
        r"the Hub answers 503 \(made to fail\); try again later.*" + UNTOUCHED,
        NOTHING,
        fails("status", "", "", count=-1),
        again=RELEASE,
    ),
    Row(
        "503 at every commit",
        r"503.*alice/net is new and empty \(or holds the whole release\)",
        EMPTY,
        fails("status", COMMIT, count=-1),
        again=RELEASE,
    ),
    Row(
        "answer to the commit lost, and the Hub gone",
        r"alice/net is new and empty \(or holds the whole release\)",
        UNTAGGED,
        then(fails("lose", COMMIT), fails("reset", r"/api/models/alice/net$", "GET", skip=2, count=-1)),
        again=RELEASE,
    ),
    Row(
        "a gated repository of others",
        r"pushing to bob/net: it is gated: ask for access on its page, and use a token .*" + UNTOUCHED,
        "bob/net: 1 other",
        then(holds("bob/net"), fails("status", "/preupload/", status=403, error="GatedRepo")),
        repository="bob/net",
        arguments=("--create-pr",),
    ),
    Row(
        "commit forbidden",
        r"the Hub forbids it \(made to fail\).*" + UNTOUCHED,
        "alice/net: 1 other",
        then(holds("alice/net"), fails("status", COMMIT, status=403)),
        again="alice/net: 1 other, 1 release, v1",
    ),
    Row(
        "tag forbidden",
        r"tagging alice/net: the Hub forbids it.*alice/net is published, but not tagged",
        UNTAGGED,
        fails("status", TAG, status=403),
        again=RELEASE,
    ),
    Row(
        "storage refuses the weights",
        r"the Hub forbids it \(.*On the Hub, alice/net is new and empty\. The same command goes on",
        EMPTY,
        fails("status", "/-/lfs/", "PUT", status=403),
        again=RELEASE,
    ),
    Row(
        "storage is broken",
        r"the Hub answers 500 .*alice/net is new and empty",
        EMPTY,
        fails("status", "/-/lfs/", "PUT", status=500, count=-1),
        again=RELEASE,
    ),
    Row(
        "storage cannot be reached",
        r"cannot be reached \(ConnectError.*alice/net is new and empty",
        EMPTY,
        lambda hub: setattr(hub, "storage", "http://127.0.0.1:9"),
        again=RELEASE,
    ),
    Row(
        "an address of the storage that is none",
        r"pushing to alice/net: .*alice/net is new and empty",
        EMPTY,
        lambda hub: setattr(hub, "storage", "htp://in valid:port"),
        again=RELEASE,
    ),
    Row(
        "a Hub that sends round in circles",
        r"checking your token for alice/net: .*redirects.*" + UNTOUCHED,
        NOTHING,
        fails("status", WHOAMI, "GET", status=302, location="/api/whoami-v2", count=-1),
        again=RELEASE,
    ),
    Row(
        "a Hub with an odd tongue",
        r"the Hub forbids it \(made.*to fail.*" + UNTOUCHED,
        NOTHING,
        fails("status", CREATE, status=403, message="made \x1b[31mto fail <b>"),
    ),
    Row(
        "second repository fails",
        r"alice/net-timm is published, but not tagged; alice/net is new and empty",
        EMPTY + "; alice/net-timm: 1 release",
        fails("status", "/models/alice/net" + COMMIT, status=403),
        ("--with-timm",),
        again=RELEASE + "; alice/net-timm: 1 release, v1",
    ),
]


def state_of(hub: Hub) -> str:
    """What a Hub holds: commits of releases and of others, tags and pull requests of each repository."""
    told = []
    for repo in sorted(hub.store.repos.values(), key=lambda one: (one.type != "dataset", one.id)):
        titles = [one.title for one in repo.history()][:-1]
        releases = sum("mcl_hf" in title for title in titles)
        tags = sorted(ref.removeprefix("refs/tags/") for ref in repo.refs if ref.startswith("refs/tags/"))
        if repo.type != "model":
            told.append(f"{repo.type} {repo.id}: {len(titles)} commit")
            continue
        parts = [f"{len(titles) - releases} other"] if len(titles) > releases else []
        parts += [f"{releases} release"] if releases else []
        parts += tags + ([f"{len(repo.pulls)} pull request"] if repo.pulls else [])
        told.append(f"{repo.id}: {', '.join(parts) or 'empty'}")
        if releases:
            held = set(repo.commit().files)
            assert {"README.md", "config.json", "model.safetensors"} <= held, "half a release"
    return "; ".join(told) or NOTHING


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_faults(row, hub, command, run, tmp_path):
    (tmp_path / "client").mkdir()
    (tmp_path / "client" / "bad.md").write_text(BAD_CARD)
    (tmp_path / "client" / "good.md").write_text(GOOD_CARD)  # test_publish.py has the one that is made, with curves
    card = () if {"--card", "--license"} & set(row.arguments) else ("--card", "good.md")
    row.prepare(hub)

    def push():
        return command("push", str(run), row.repository, *row.arguments, *card, token=row.token, **row.environment)

    done = push()
    output = " ".join((done.err + done.out).split())
    assert done.code == row.code, done.text
    assert re.search(row.says, output), output
    assert state_of(hub) == row.after
    if row.code:
        assert "Traceback" not in done.err and sum("error:" in line for line in done.err.splitlines()) == 1
    assert not hub.waiting_faults() or row.again, "the fault did not happen"
    assert row.token is None or row.token not in done.text
    if row.again:
        hub.forget()
        done = push()
        assert done.code == 0, done.text
        assert state_of(hub) == row.again
