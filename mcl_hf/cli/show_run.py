"""`mcl-hf show run DIR [DIR ...]`: curves as PNG, and a table of the last numbers."""

from pathlib import Path

from .command import Parser, check_picture, save_picture, say, unused


def run(argv: list[str]) -> None:
    """Print the table, write the picture and say where it is.

    Raises:
        InputError: A folder without a log, or matplotlib is not installed.
    """
    parser = Parser(
        prog="mcl-hf show run", description="Draw a run's curves, or those of several runs over each other."
    )
    parser.add_argument("runs", nargs="+", metavar="DIR", type=Path, help="folder of a run (or its log.jsonl)")
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help="picture to write (default: DIR/pictures/curves.png for one run, a free curves.png for several)",
    )
    arguments = parser.parse_args(argv)
    runs: list[Path] = arguments.runs
    if arguments.out is not None:
        check_picture(arguments.out)

    from ..viz.curves import curves_picture, read_log, summarise

    say(side_by_side([{"run": str(path), **summarise(read_log(path))} for path in runs]))
    folder = runs[0] if runs[0].is_dir() else runs[0].parent
    default = folder / "pictures" / "curves.png" if len(runs) == 1 else unused(Path("curves.png"))
    save_picture(curves_picture(runs), arguments.out or default)


def side_by_side(columns: list[dict[str, str]]) -> str:
    """One line a number, one column a run; "-" where a run does not have it. The columns' order of titles is kept."""
    titles: list[str] = []
    for column in columns:
        for place, title in enumerate(column):
            if title not in titles:  # after the one that it follows in its own column
                before = list(column)[place - 1] if place else None
                titles.insert(titles.index(before) + 1 if before in titles else len(titles), title)
    return _aligned([[title, *(column.get(title, "-") for column in columns)] for title in titles])


def format_table(rows: list[dict[str, str]]) -> str:
    """Rows as aligned text: one line a row below the titles."""
    titles = list(dict.fromkeys(title for row in rows for title in row))
    return _aligned([titles, *([row.get(title, "-") for title in titles] for row in rows)])


def _aligned(lines: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
