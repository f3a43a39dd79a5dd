"""Publishing: everything checked, then each repository in one commit, then a tag.

Where it sits: a checkpoint -> `bundle.py` -> **publish** -> `repository.py`. Nothing is changed on the Hub before all
bundles have passed all checks; a commit is whole or absent; the same call again goes on where one was cut off, and
sends nothing twice. A repository that was made for a push that then failed stays, empty: this library deletes none.
"""

import re
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import ModelCard

from ..errors import InputError
from ..version import __version__
from .bundle import CARD, Bundle, Contents, is_ours, make_bundles
from .refusals import HubAwayError
from .repository import CARD_KEPT, Commit, Repository, check_name

_TAG = re.compile(r"(?!.*(\.\.|//|/\.|\.lock(/|$)))[^\W_][\w.+@/-]*(?<![./])", re.ASCII)
"""Names that git takes, and a little fewer: the Hub looks at them only after the commit."""


@dataclass(frozen=True)
class Published:
    """What came of a bundle.

    Attributes:
        repository: `user/name`.
        commit: that holds it.
        tag: that names the commit; None for a pull request.
        tagged: whether this call made the tag.
    """

    repository: str
    commit: Commit
    tag: str | None
    tagged: bool = False


def push_checkpoint(
    checkpoint: str | Path,
    repository: str,
    *,
    contents: Contents | None = None,
    public: bool = False,
    private: bool = False,
    create_pr: bool = False,
    tag: str | None = None,
    message: str | None = None,
) -> list[Published]:
    """Publish a checkpoint.

    Args:
        checkpoint: a finished run, its `pretraining/`, a checkpoint inside, a fine-tuned or an exported detector.
        repository: `user/name`; made where it is not there.
        contents: what goes along.
        public: a new repository is public; left out, it is private.
        private: refuse a repository that is there and public.
        create_pr: propose the files in a pull request instead.
        tag: of the release; None takes the next of v1, v2, ...
        message: title of the commit.

    Returns:
        One entry for each repository, the model's own last.

    Raises:
        InputError: one line: what is wrong, and what is on the Hub now.

    Example:
        >>> from mcl_hf.hub.publish import push_checkpoint
        >>> push_checkpoint("my-run", "user/name")[-1].tag  # doctest: +SKIP
        'v1'
    """
    check_request(repository, create_pr, tag)
    with tempfile.TemporaryDirectory(prefix="mcl-hf-push-") as folder:
        bundles = make_bundles(checkpoint, repository, Path(folder), contents)
        return _publish(bundles, public=public, private=private, create_pr=create_pr, tag=tag, message=message)


def check_request(repository: str, create_pr: bool, tag: str | None) -> None:
    """Refuse what no push can do, whatever lies on the Hub: names that are none, a tag for a pull request."""
    check_name(repository)
    if create_pr and tag is not None:
        raise InputError("--tag and --create-pr are both given: a release is tagged when the pull request is merged")
    if tag is not None and _TAG.fullmatch(tag) is None:
        raise InputError(f"--tag {tag!r} cannot be a tag: write one such as v1, of letters, digits and . _ - + / @")


def _publish(
    bundles: Sequence[Bundle], *, public: bool, private: bool, create_pr: bool, tag: str | None, message: str | None
) -> list[Published]:
    """Publish bundles, the first one last, as its card may name the others."""
    order = list(reversed(bundles))
    states, sending = {bundle.repository: "as it was" for bundle in order}, ""
    try:
        repositories = [Repository(bundle.repository, kind=bundle.kind) for bundle in order]
        there = [repository.check(private, create_pr) for repository in repositories]
        for repository, bundle in zip(repositories, order, strict=True):
            repository.check_card(bundle.card)
        tags = [repository.tags() if exists else {} for repository, exists in zip(repositories, there, strict=True)]
        name = None if create_pr else _release_name(repositories, order, tags, tag)
        title = message or f"{name or 'Weights and card'} (mcl_hf {__version__})"
        # --- from here on the Hub changes ---
        commits = []
        for repository, bundle, exists in zip(repositories, order, there, strict=True):
            if not exists:
                repository.create(private=not public)
                states[repository.name] = "new and empty"
            sending = repository.name
            commits.append(repository.commit(bundle.files, title, lambda paths: filter(is_ours, paths), create_pr))
            states[sending] = "published as a pull request" if create_pr else "published, but not tagged"
            sending = ""
        if name is not None:
            name = _earlier_name(commits, tags, tag) or name
            for repository, commit in zip(repositories, commits, strict=True):
                repository.tag(name, commit.oid)
                states[repository.name] = "published"
    except InputError as error:
        told = _how_far(states, sending if isinstance(error, HubAwayError) else "")
        raise type(error)(f"{error}. {told}") from error
    except KeyboardInterrupt:
        print(_how_far(states, sending), file=sys.stderr)
        raise
    published = [
        Published(bundle.repository, commit, name, tagged=name is not None and name not in known)
        for bundle, commit, known in zip(order, commits, tags, strict=True)
    ]
    for one in published:
        print(_told(one))
        if one.commit.kept_card:
            print(f"{one.repository}: {CARD_KEPT}")
    return published


def _how_far(states: Mapping[str, str], sending: str) -> str:
    """How far a push has come that came no further; `sending` names a repository whose answer may have been lost."""
    if not sending and set(states.values()) == {"as it was"}:
        return "Nothing was changed on the Hub."
    told = [
        f"{name} is {state}{' (or holds the whole release)' if name == sending else ''}"
        for name, state in states.items()
    ]
    return f"On the Hub, {'; '.join(told)}. The same command goes on from there and sends nothing twice."


def _told(one: Published) -> str:
    if one.tag is None:
        return f"proposed: {one.commit.url}" if one.commit.made else f"{one.repository} holds all of it already"
    state = "published" if one.commit.made else "tagged" if one.tagged else "unchanged"
    there = ", which holds all of it already" if state == "tagged" else ""
    return f"{state}: {one.repository} at {one.tag}, commit {one.commit.oid[:8]}{there}"


def _release_name(
    repositories: Sequence[Repository], bundles: Sequence[Bundle], tags: Sequence[dict[str, str]], wanted: str | None
) -> str:
    """The tag of this release: the one that is wanted, which must name nothing else yet, or the next after all `v1`,
    `v2`, ... that there are."""
    if wanted is None:
        return next_tag([tag for known in tags for tag in known])
    for repository, bundle, known in zip(repositories, bundles, tags, strict=True):
        if wanted in known and not (known[wanted] == repository.head()[0] and repository.holds(bundle.files)):
            raise InputError(
                f"tag {wanted} of {repository.name} is taken by an earlier release: choose another --tag, or leave it "
                "out"
            )
    return wanted


def next_tag(tags: Iterable[str]) -> str:
    """The release after the highest `v1`, `v2`, ... there is.

    Example:
        >>> next_tag([]), next_tag(["v1", "v10", "v2.5", "old"])
        ('v1', 'v11')
    """
    numbers = [int(found[1]) for tag in tags if (found := re.fullmatch(r"v(\d+)", tag))]
    return f"v{max(numbers, default=0) + 1}"


def _earlier_name(commits: Sequence[Commit], tags: Sequence[dict[str, str]], wanted: str | None) -> str | None:
    """The tag that names these commits already, where nothing is new and no tag was asked for."""
    if wanted is not None or any(commit.made for commit in commits):
        return None
    names = [
        [tag for tag, oid in known.items() if oid == commit.oid] for known, commit in zip(tags, commits, strict=True)
    ]
    return next((name for name in reversed(names[-1]) if all(name in others for others in names)), None)


def describe(bundles: Sequence[Bundle], public: bool = False) -> str:
    """Visibility, licence, files, sizes and cards, for a reader."""
    seen = "public" if public else "private (--public makes it public)"
    license = ModelCard(bundles[0].card, ignore_metadata_errors=True).data.license
    lines = [
        f"visibility: {seen} where the repository is new; one that is there keeps its own",
        f"licence of the weights: {license or 'none is claimed (--license NAME gives one)'}",
    ]
    for bundle in bundles:
        sizes = bundle.sizes()
        kind = " (Space)" if bundle.kind == "space" else ""
        lines.append(f"{bundle.repository}{kind}: {len(sizes)} files, {_size(sum(sizes.values()))}")
        width = max(map(len, sizes))
        lines += [f"  {path:<{width}}  {_size(size):>9}" for path, size in sizes.items()]
    for bundle in bundles:
        lines += ["", f"--- {CARD} of {bundle.repository} ---", bundle.card]
    return "\n".join(lines)


def _size(count: int) -> str:
    """Bytes in the unit that suits them."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"
