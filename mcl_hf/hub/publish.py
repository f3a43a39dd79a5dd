"""Publishing: everything checked, then each repository in one commit, then a tag.

Where it sits: a checkpoint -> `bundle.py` -> **publish** -> `repository.py`. Nothing is changed on the Hub before all
bundles have passed all checks; a commit is whole or absent; the same call again goes on where one was cut off, and
sends nothing twice. A repository that was made for a push that then failed stays, empty: this library deletes none.
"""

import re
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import ModelCard

from ..errors import InputError
from ..version import __version__
from .bundle import Bundle, Contents, is_ours, make_bundles
from .repository import CARD, CARD_KEPT, Commit, HubAwayError, Repository, check_name

_TAG = re.compile(r"(?!.*(\.\.|//|/\.|\.lock(/|$)))[^\W_][\w.+@/-]*(?<![./])", re.ASCII)
"""Names that git takes, and a little fewer: the Hub looks at them only after the commit."""


@dataclass
class Published:
    """A bundle on its way to `repository`, `user/name`, and what came of it."""

    repository: str
    bundle: Bundle = field(repr=False)
    hub: Repository = field(repr=False)
    tags: dict[str, str] = field(default_factory=dict, repr=False)  # that were there before: name -> commit
    state: str = "as it was"  # how far it has come, in words
    commit: Commit = field(init=False, repr=False)  # that holds it
    tag: str | None = None  # that names the commit; None for a pull request

    @property
    def tagged(self) -> bool:
        """Whether this call made the tag."""
        return self.tag is not None and self.tag not in self.tags

    def __str__(self) -> str:
        if self.tag is None:
            return f"proposed: {self.commit.url}" if self.commit.made else f"{self.repository} holds all of it already"
        state = "published" if self.commit.made else "unchanged" if self.tag in self.tags else "tagged"
        there = ", which holds all of it already" if state == "tagged" else ""
        return f"{state}: {self.repository} at {self.tag}, commit {self.commit.oid[:8]}{there}"


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
        parts = [Published(one.repository, one, Repository(one.repository, kind=one.kind)) for one in bundles[::-1]]
        _publish(parts, public=public, private=private, create_pr=create_pr, tag=tag, message=message)
    for part in parts:
        print(part)
        if part.commit.kept_card:
            print(f"{part.repository}: {CARD_KEPT}")
    return parts


def check_request(repository: str, create_pr: bool, tag: str | None) -> None:
    """Refuse what no push can do, whatever lies on the Hub: names that are none, a tag for a pull request."""
    check_name(repository)
    if create_pr and tag is not None:
        raise InputError("--tag and --create-pr are both given: a release is tagged when the pull request is merged")
    if tag is not None and _TAG.fullmatch(tag) is None:
        raise InputError(f"--tag {tag!r} cannot be a tag: write one such as v1, of letters, digits and . _ - + / @")


def _publish(
    parts: Sequence[Published], *, public: bool, private: bool, create_pr: bool, tag: str | None, message: str | None
) -> None:
    """Publish in this order; the model's own card, which may name the other repositories, goes last."""
    sending = None  # the part whose answer may have been lost
    try:
        there = [part.hub.check(private, create_pr) for part in parts]
        for part in parts:
            part.hub.check_card(part.bundle.card)
        for part, exists in zip(parts, there, strict=True):
            part.tags = part.hub.tags() if exists else {}
        name = None if create_pr else _release_name(parts, tag)
        title = message or f"{name or 'Weights and card'} (mcl_hf {__version__})"
        # --- from here on the Hub changes ---
        for part, exists in zip(parts, there, strict=True):
            if not exists:
                part.hub.create(private=not public)
                part.state = "new and empty"
            sending = part
            part.commit = part.hub.commit(part.bundle.files, title, lambda paths: filter(is_ours, paths), create_pr)
            part.state = "published as a pull request" if create_pr else "published, but not tagged"
            sending = None
        if name is not None:
            name = _earlier_name(parts, tag) or name
            for part in parts:
                part.hub.tag(name, part.commit.oid)
                part.tag, part.state = name, "published"
    except InputError as error:
        told = _how_far(parts, sending if isinstance(error, HubAwayError) else None)
        raise type(error)(f"{error}. {told}") from error
    except KeyboardInterrupt:
        print(_how_far(parts, sending), file=sys.stderr)
        raise


def _how_far(parts: Sequence[Published], sending: Published | None) -> str:
    """How far a push has come that came no further."""
    if sending is None and all(part.state == "as it was" for part in parts):
        return "Nothing was changed on the Hub."
    perhaps = " (or holds the whole release)"
    told = [f"{part.repository} is {part.state}{perhaps if part is sending else ''}" for part in parts]
    return f"On the Hub, {'; '.join(told)}. The same command goes on from there and sends nothing twice."


def _release_name(parts: Sequence[Published], wanted: str | None) -> str:
    """The tag of this release: the one that is wanted, which must name nothing else yet, or the next after all `v1`,
    `v2`, ... that there are."""
    if wanted is None:
        return next_tag(tag for part in parts for tag in part.tags)
    for part in parts:
        named = part.tags.get(wanted)
        if named is not None and not (named == part.hub.head()[0] and part.hub.holds(part.bundle.files)):
            raise InputError(
                f"tag {wanted} of {part.repository} is taken by an earlier release: choose another --tag, or leave it "
                "out"
            )
    return wanted


def next_tag(tags: Iterable[str]) -> str:
    """The release after the highest `v1`, `v2`, ... there is: `v11` after `v1`, `v10`, `v2.5`."""
    numbers = [int(found[1]) for tag in tags if (found := re.fullmatch(r"v(\d+)", tag))]
    return f"v{max(numbers, default=0) + 1}"


def _earlier_name(parts: Sequence[Published], wanted: str | None) -> str | None:
    """The tag that names these commits already, where nothing is new and no tag was asked for."""
    if wanted is not None or any(part.commit.made for part in parts):
        return None
    names = [[tag for tag, oid in part.tags.items() if oid == part.commit.oid] for part in parts]
    return next((name for name in reversed(names[-1]) if all(name in others for others in names)), None)


def describe(bundles: Sequence[Bundle], public: bool) -> str:
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
