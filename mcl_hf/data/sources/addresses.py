"""What a text after `--data` means: a mix, shards on a server or the Hub, a data set's name, or something local.

Flow: **addresses** -> sources. Nothing is asked over the network here unless the text names the Hub.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from ...errors import InputError
from ...hub_token import is_unknown_token, mend_the_token, show_a_token
from ...retry import call_with_retries
from .local_tables import canonical_split, split_in_name
from .remote_files import is_remote, plain_address

SHARD_SUFFIXES = (".parquet", ".tar")
_FILES_LISTED = 5
_OF_A_QUERY = re.compile(r"https?://.*[?&][^?&=]*$")  # before an equals sign that is the address's own: ?expires=3600

_HUB_NAME = re.compile(r"(\w[\w.-]*/)?\w[\w.-]*")  # ./name and ../name are folders, there or not
_HUB_ADDRESS = re.compile(r"hf://datasets/(?P<repo>[^/@]+/[^/@]+)(@(?P<revision>refs/[^/]+/[^/]+|[^/]+))?/(?P<path>.*)")
_CONVERTED = "refs/convert/parquet"
_BRACES = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class Shards:
    """Files to stream: what they are, for the log, and their paths or addresses in order."""

    kind: str
    addresses: list[str]


def split_mix(data: Sequence[str]) -> tuple[list[str], list[float] | None]:
    """The sources of a mix, as `["a=0.7", "b=0.3"]`, and their weights; None where none has one. A single text is taken
    as it is, equals signs and all."""
    if not data:
        raise InputError("data is empty: name a folder, files, an address or a data set")
    if len(data) == 1:
        return list(data), None
    parts = [text.rpartition("=") for text in data]
    weights = [_weight(weight) if name and not _OF_A_QUERY.match(name) else None for name, _, weight in parts]
    if all(weight is None for weight in weights):
        return list(data), None
    for text, weight in zip(data, weights, strict=True):
        if weight is None or weight <= 0:
            raise InputError(
                f"data '{text}' has no weight above 0: write SOURCE=WEIGHT for each source of a mix, as a=0.7 b=0.3, "
                "or no weight at all to take every image once an epoch"
            )
    return [name for name, _, _ in parts], [float(weight) for weight in weights if weight is not None]


def is_hub_name(data: str) -> bool:
    """Whether a text that is no local path can be the name of a data set on the Hub."""
    return _HUB_NAME.fullmatch(data) is not None


def addressed_shards(data: str, patterns: Sequence[str] | None) -> Shards:
    """Shards of an `https://` or `hf://` address with braces or, on the Hub, wildcards; `patterns` are looked for below
    an address of the Hub."""
    if is_remote(data):
        plain = plain_address(data)
        if "*" in plain:
            raise InputError(f"{plain}: a web server cannot list its files; write them with braces, as in {{000..127}}")
        return Shards(f"shards from {plain.partition('://')[2].partition('/')[0]}", list(expand_braces(data)))
    if patterns is not None:
        data = f"{data.rstrip('/')}/"
    match = _HUB_ADDRESS.fullmatch(data)
    if match is None or not (match["path"] or any(patterns or ())):
        raise InputError(
            f"{data} cannot be read: write hf://datasets/USER/NAME/PATH, with wildcards if you like, or name the files "
            "with --data-files"
        )
    wanted = [match["path"] + pattern for pattern in patterns or ("",)]
    return Shards(f"shards of {match['repo']} on the Hub", _hub_matches(match["repo"], match["revision"], wanted))


def matching_files(files: Sequence[str], patterns: Sequence[str], data: str) -> list[str]:
    """Those of `files` that match one of the globs, which may have braces and `**`, in their own order. What is the
    name of a file is no glob."""
    from fsspec.utils import glob_translate

    there = set(files)
    chosen: set[str] = set()
    for pattern in patterns:
        name = pattern.removeprefix("./")
        if name in there:
            chosen.add(name)
            continue
        forms = [re.compile(glob_translate(form)) for form in expand_braces(name)]
        found = [file for file in files if any(form.fullmatch(file) for form in forms)]
        if not found:
            listed = ", ".join(files[:_FILES_LISTED]) or "no data files at all"
            more = f" and {len(files) - _FILES_LISTED} more" if len(files) > _FILES_LISTED else ""
            raise InputError(f"no file of {data} matches '{pattern}': there are {listed}{more}")
        chosen.update(found)
    return [file for file in files if file in chosen]


def hub_shards(name: str, split: str, patterns: Sequence[str] | None = None) -> Shards:
    """Parquet or tar shards of a data set on the Hub that match one of `patterns`, or belong to `split`; where it
    has none of its own, those that the Hub has converted it to."""
    if patterns is not None:
        chosen = _hub_matches(name, None, patterns)
        return Shards(f"Hub data set {name}, {len(chosen)} files", chosen)
    for revision in (None, _CONVERTED):
        files, commit = _hub_files(name, revision)
        for suffix in SHARD_SUFFIXES:
            shards = [file for file in files if file.lower().endswith(suffix)]
            if not shards:
                continue
            chosen = _of_split(name, shards, split)
            folders = sorted({file.partition("/")[0] for file in chosen}) if revision else []
            if len(folders) > 1:
                raise InputError(
                    f"the data set {name} has the configurations {', '.join(folders)}: name one, as in "
                    f"hf://datasets/{name}@{_CONVERTED}/{folders[0]}/{split}/*.parquet"
                )
            return Shards(f"Hub data set {name}, split {split}", _hub_addresses(name, commit, chosen))
    raise InputError(f"the data set {name} on the Hub has no parquet or tar shards: leave out --streaming")


def expand_braces(pattern: str) -> Iterator[str]:
    """`{000..127}` counts with that many digits, `{a,b}` lists; several braces multiply."""
    match = _BRACES.search(pattern)
    if match is None:
        yield pattern
        return
    before, after = pattern[: match.start()], pattern[match.end() :]
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    if numbers:
        first, last = int(numbers[1]), int(numbers[2])
        if last < first:
            raise InputError(f"'{{{match[1]}}}' in {pattern} counts down: write the smaller number first")
        choices = [str(number).zfill(len(numbers[1])) for number in range(first, last + 1)]
    else:
        choices = match[1].split(",")
    for choice in choices:
        yield from expand_braces(f"{before}{choice}{after}")


def _weight(text: str) -> float | None:
    try:
        return float(Fraction(text))
    except (ValueError, ArithmeticError):
        return None


def _of_split(name: str, files: list[str], split: str) -> list[str]:
    """Files whose name or a folder of theirs names the split; all of them where nothing names any."""
    named = {file: _named_split(file) for file in files}
    if not any(named.values()):
        return files
    chosen = [file for file, found in named.items() if found == canonical_split(split)]
    if not chosen:
        found = ", ".join(sorted({value for value in named.values() if value}))
        raise InputError(f"the data set {name} has no split '{split}': its shards belong to {found}")
    return chosen


def _named_split(file: str) -> str | None:
    *folders, name = file.split("/")
    told = (split_in_name(part) for part in (name, *(f"{folder}." for folder in reversed(folders))))
    return next(filter(None, told), None)


def _hub_files(repo: str, revision: str | None) -> tuple[list[str], str]:
    """Files of a data set, sorted, and the commit that they are of."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = call_with_retries(HfApi().dataset_info, repo, revision=revision, what=f"asking for the data set {repo}")
    except RevisionNotFoundError:
        if revision == _CONVERTED:  # not every data set has been converted
            return [], _CONVERTED
        raise InputError(f"the data set {repo} on the Hub has no revision {revision}") from None
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise InputError(
            f"'{repo}' is no local file or folder, and no data set on the Hub that can be seen from here: check the "
            f"name, and {show_a_token()} if it is private"
        ) from error
    except Exception as error:  # the connection errors of whichever HTTP library the client uses: httpx or httpx2
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        unknown = f"it does not know your token; {mend_the_token()}."
        reason = unknown if is_unknown_token(error) else " ".join(first_line.split())
        raise InputError(f"the Hub cannot be asked for the data set {repo}: {reason}") from error
    return sorted(sibling.rfilename for sibling in info.siblings or []), info.sha or "main"


def _hub_matches(repo: str, revision: str | None, patterns: Sequence[str]) -> list[str]:
    files, commit = _hub_files(repo, revision)
    return _hub_addresses(repo, commit, matching_files(files, patterns, f"the data set {repo} on the Hub"))


def _hub_addresses(repo: str, revision: str, files: Sequence[str]) -> list[str]:
    from huggingface_hub import hf_hub_url

    return [hf_hub_url(repo, file, repo_type="dataset", revision=revision) for file in files]
