"""Where images come from: one way in, `open_source`, and one thing that comes out, an `ImageSource`.

Flow: addresses -> **open** -> image_source | streams | mixing -> decode -> views -> loader. What can be read row by row
becomes a table and is shuffled as a whole; shards in an archive or on a server are streamed.
"""

import glob
from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError
from ..given import plain_value
from .sources.addresses import Shards, addressed_shards, hub_shards, is_hub_name, split_mix
from .sources.folders import folder_files, local_files, open_folder
from .sources.image_source import ImageSource, TableSource
from .sources.local_tables import LocalTable, canonical_split, embedded_folder, hub_table, matching, photos_table
from .sources.mixing import MixedSource
from .sources.remote_files import is_remote, shown_data
from .sources.split_column import rows_of_split
from .streams.streams import StreamSource
from .streams.tiles import TiledSource


def open_source(
    data: str | Path | Sequence[str | Path],
    *,
    data_files: str | Sequence[str] | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    split: str = "train",
    streaming: bool = False,
    tile: int | None = None,
    allow_outside_paths: bool = False,
) -> ImageSource:
    """Open images for reading by index.

    Args:
        data: one source, or several to mix, as `["a=0.7", "b=0.3"]` or without weights. A source is

            * `photos` (those that come with the package; a folder of your own called photos is `./photos`), or
              `bccd-mini`, which are annotated,
            * a folder of images (flat or by class, at any depth),
            * a parquet, arrow or WebDataset tar file, a folder of them or a glob,
            * the name of a data set on the Hub, `user/name`,
            * `https://` or `hf://datasets/user/name/path` addresses of parquet or tar shards, with `{000..127}`
              and, on the Hub, wildcards. They are read where they lie.
        data_files: of a folder, a data set on the Hub or `hf://datasets/user/name`, the files to take: names or globs
            within it (`**` for any depth). They take the place of `split`.
        image_column: column that holds the images; found by itself where there is only one candidate.
        label_column: column of class numbers or names (tar: `cls`). By-class folders, and tables whose `label` is
            a ClassLabel, give labels without it; streams do not.
        group_column: column whose equal values mark images of one group (crops of one photo: `source_image` in
            the embedded ones). Folders of images have `folder`.
        split: the part to take where the names of folders or files, or a table's column `split`, tell parts apart;
            elsewhere it has no effect, which the description says. Streams are read whole.
        streaming: read parquet files and the Hub's data sets where they lie as well, without a copy on disk.
        tile: cut every picture into tiles of about so many px a side, each an image of its own; see `TiledSource`.
        allow_outside_paths: read images outside of the data's folder, which paths in tables may name.

    Raises:
        InputError: nothing there, no images in it, a pattern that matches nothing, or a column that does not exist or
            does not fit; or a path in a table that leaves the data's folder.
    """
    given, patterns = plain_value(data), plain_value(data_files)
    names, weights = split_mix([given] if isinstance(given, str) else given)
    patterns = [patterns] if isinstance(patterns, str) else patterns
    if patterns is not None:
        _check_choice(patterns, names, split)
    columns = (image_column, label_column, group_column)
    sources: list[ImageSource] = []
    for name in names:
        opened = _find(name, split, streaming, patterns)
        if isinstance(opened, Shards):
            sources.append(StreamSource(name, opened, columns, allow_outside_paths))
        else:
            if patterns is None:
                opened = rows_of_split(opened, split, shown_data(name))
            sources.append(TableSource(name, opened, columns, allow_outside_paths))
    if tile is not None:
        sources = [TiledSource(source, tile) for source in sources]
    return sources[0] if len(sources) == 1 else MixedSource(sources, weights)


def _check_choice(patterns: list[str], names: list[str], split: str) -> None:
    """Raise `InputError` where `data_files` has nothing to choose from."""
    if not patterns:
        raise InputError("data_files is empty: name files or globs, or leave it out")
    if len(names) > 1:
        raise InputError("data_files chooses files of one source: in a mix write the globs in data itself")
    if canonical_split(split) != "train":
        raise InputError(
            f"data_files and split '{split}' are both given: the files named are the part, leave split out"
        )
    data = embedded_folder(names[0])
    if data.startswith("hf://") or (not is_remote(data) and Path(data).is_dir()):
        return
    if data == "photos" or is_remote(data) or Path(data).is_file() or not is_hub_name(data):
        raise InputError(
            f"data_files chooses among the files of a folder, a data set on the Hub or hf://datasets/USER/NAME; "
            f"'{shown_data(data)}' is none of these: leave data_files out"
        )


def _find(data: str, split: str, streaming: bool, patterns: list[str] | None) -> LocalTable | Shards:
    """What a text names: a table to be shuffled, or shards to be streamed."""
    data = embedded_folder(data)
    if is_remote(data) or data.startswith("hf://"):
        return addressed_shards(data, patterns)
    path = Path(data)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise InputError(f"{data} is a pipe or a device, which may never end: give a file or a folder")
    if patterns is not None and path.is_dir():
        return folder_files(data, path, patterns, streaming)
    if patterns is not None:
        try:
            return hub_shards(data, split, patterns) if streaming else hub_table(data, "train", patterns)
        except InputError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                hub_shards(data, "train", patterns)  # says which pattern matches nothing, and what there is
            raise
    if data == "photos":
        return photos_table(split)
    if path.is_dir():
        return open_folder(path, split, streaming)
    if path.is_file():
        return local_files(data, [path], split, streaming)
    if glob.has_magic(data):
        return local_files(data, [Path(file) for file in matching(data)], split, streaming)
    if not is_hub_name(data):
        raise InputError(
            f"data '{data}' is no local file or folder, no address and no name of a data set on the Hub: give photos, "
            "bccd-mini, a folder of images, parquet, arrow or tar files, or user/name"
        )
    return hub_shards(data, split) if streaming else hub_table(data, split)
