"""A Space beside a model: the page of `mcl-hf demo` for everybody who may see it.

Where it sits: `bundle.py` -> **space** -> three files; the Space fetches the model from its own repository.
"""

from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import SpaceCardData, constants

from ..files import fill_template, sealed
from ..version import __version__
from .card_data import without_private_parts

GRADIO = "6.31.0"
"""Release of Gradio that the page was tested with."""

_APP = '''\
"""A page to look at {repository}."""

from mcl_hf.demo.page import serve

serve("{repository}", host="0.0.0.0", port=7860)
'''
_REQUIREMENTS = """\
--extra-index-url https://download.pytorch.org/whl/cpu
mcl-hf[demo]=={version}
"""


def write_space(folder: Path, repository: str, title: str, licence: Mapping[str, str | None]) -> None:
    """Write app.py, requirements.txt and README.md of the Space beside the model `repository` into a new folder;
    `licence` as of `licence_fields`."""
    folder.mkdir()
    metadata = SpaceCardData(
        title=title,
        sdk="gradio",
        sdk_version=GRADIO,
        python_version="3.11",
        app_file="app.py",
        **licence,
        models=[repository],
        tags=["mcl_hf"],
    )
    files = {
        "app.py": _APP.format(repository=repository),
        "requirements.txt": _REQUIREMENTS.format(version=__version__),
        "README.md": sealed(
            fill_template(
                Path(__file__).with_name("space_card.md"),
                metadata=metadata.to_yaml(),
                title=title,
                repository=repository,
                endpoint=without_private_parts(constants.ENDPOINT),
            )
        ),
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
