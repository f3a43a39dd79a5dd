"""What a release consists of: the files of one to three repositories, made whole in a folder before anything is sent.

Where it sits: a checkpoint -> **bundle** -> `publish.py`. Weights go through `transfer`, the card through `card.py`.

    user/name                                  user/name-timm (with_timm)
        config.json, model.safetensors             config.json, model.safetensors
        preprocessor_config.json                   README.md
        README.md, its pictures                user/name-demo (with_space)
        training_arguments.json, log_summary.json  app.py, requirements.txt
        *.py (with_code)                           README.md
        pretraining/ (with_pretraining)
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import CardData, ModelCardData, SpaceCardData, constants

from ..errors import InputError
from ..files import fill_template, is_somebodys, sealed
from ..models.configuration_mcl import MCLConfig
from ..remote.checkpoints import with_last
from ..transfer.checkpoint import find_folder
from ..transfer.export import export_checkpoint
from ..transfer.remote_code import code_files, name_code, refuse_detector, write_with_code
from ..transfer.to_timm import feature_options
from ..version import __version__
from .card import PICTURES, check_card, render_card
from .card_data import ARGUMENTS_FILE, SUMMARY_FILE, read_state, whole_class, without_private_parts, write_run_record
from .metadata import licence_fields
from .repository import CARD, MAX_FILE_BYTES

_MODEL_FILES = ("config.json", "preprocessor_config.json", "model.safetensors", "model.safetensors.index.json",
                "model-?????-of-?????.safetensors")  # fmt: skip
_EARLIER_CODE = ("hub_retry.py", "patient_loading.py")  # of releases before the models' code knew no network
PRETRAINING = "pretraining"
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
# Of Contents, what `render_card` is told in the same words.
_OF_THE_CARD = ("license", "evaluations", "with_timm", "with_code", "data_name", "data_license", "pictures_of_data")


@dataclass
class Bundle:
    """All that one repository `user/name`, of a `model` or a `space`, gets: a folder of files, as they will lie
    there."""

    repository: str
    folder: Path
    kind: str = "model"
    files: dict[str, Path] = field(init=False)

    def __post_init__(self) -> None:
        found = sorted(path for path in self.folder.rglob("*") if path.is_file())
        self.files = {path.relative_to(self.folder).as_posix(): path for path in found}

    @property
    def card(self) -> str:
        """The text of its README.md."""
        return self.files[CARD].read_text(encoding="utf-8")

    def sizes(self) -> dict[str, int]:
        """Path in the repository -> bytes."""
        return {path: file.stat().st_size for path, file in self.files.items()}


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a release is to hold beyond weights, configuration, processor, card and record of the run."""

    with_timm: bool = False  # a second repository, for timm
    with_space: bool = False  # a Space, to look at the model with
    with_code: bool = False  # the code of the model, to open it where mcl_hf is not installed
    with_pretraining: bool = False  # target network and predictors, too, to continue from
    card: Path | None = None  # a README.md of the user's own, in place of the one that is rendered
    title: str | None = None  # this and what follows: see `render_card`
    license: str | None = None
    evaluations: Sequence[Path] = ()
    data_name: str | None = None
    data_license: str | None = None
    pictures_of_data: bool = False


def make_bundles(checkpoint: str | Path, repository: str, into: Path, contents: Contents | None = None) -> list[Bundle]:
    """Make a release in an empty folder, without the network: of a finished run, its `pretraining/`, a checkpoint
    inside, a fine-tuned or an exported detector.

    Returns:
        The bundle of `repository`, and after it those of `repository`-timm and of the Space, if wanted.

    Raises:
        InputError: nothing that can be published, options that do not fit it, or a card that does not parse.
    """
    contents = contents or Contents()
    if not with_last(Path(checkpoint)).is_dir():
        raise InputError(
            f"there is no folder {checkpoint}: push takes a run, a checkpoint or a detector of this machine"
        )
    source, description = find_folder(str(checkpoint))
    state = read_state(source)  # a damaged record is found before anything is written
    if contents.with_code:
        refuse_detector(description.get("model_type"))
    if contents.with_space and description.get("num_channels", 3) not in (1, 3):
        raise InputError(f"--with-space: images of {description['num_channels']} channels are no pictures to look at")
    model = into / "model"
    # of a whole pre-training model the online network alone, of all others every file
    export_checkpoint(source, model, "transformers", network="online" if whole_class(description) else None)
    if contents.with_code:
        plain = model.rename(into / "plain")
        write_with_code(plain, model)
    if state is not None:
        write_run_record(source, state, model)
    whole = _copy_pretraining(source, description, model, contents.with_code) if contents.with_pretraining else None
    title = contents.title or repository.split("/")[-1]
    (model / CARD).write_text(_card(source, repository, title, model, contents, whole), encoding="utf-8")
    bundles = [Bundle(repository, model)]
    if contents.with_timm:
        export_checkpoint(source, into / "timm", "timm")
        header = ModelCardData(
            **licence_fields(state, contents.license), library_name="timm", pipeline_tag="image-feature-extraction",
            base_model=repository, tags=["timm", "mcl_hf"],
        )  # fmt: skip
        maps = feature_options(description["backbone"], description["num_channels"], description.get("backbone_kwargs"))
        _write_readme(into / "timm", "timm_card.md", header, repository, title, feature_options=maps)
        bundles.append(Bundle(f"{repository}-timm", into / "timm"))
    if contents.with_space:
        own = contents.title or f"{title}-demo"
        write_space(into / "space", repository, own, licence_fields(state, contents.license))
        bundles.append(Bundle(f"{repository}-demo", into / "space", "space"))
    for bundle in bundles:
        for path, size in bundle.sizes().items():
            if size > MAX_FILE_BYTES:
                raise InputError(
                    f"{path} of {bundle.repository} is too large for the Hub: {size / 1e9:.1f} GB, at most "
                    f"{MAX_FILE_BYTES / 1e9:.0f} GB a file"
                )
    return bundles


def is_ours(path: str) -> bool:
    """Whether an earlier release may have put a file there: what this one does not hold goes, all else stays."""
    name = PurePosixPath(path)
    if len(name.parts) > 1:
        return name.parts[0] == PRETRAINING or path in PICTURES
    others = (*code_files(), *_EARLIER_CODE, ARGUMENTS_FILE, SUMMARY_FILE)
    return path in others or any(map(name.match, _MODEL_FILES))


def _copy_pretraining(source: Path, description: dict[str, Any], model: Path, with_code: bool) -> str:
    """Copy the whole model into a folder below the slim one, where its code lies; the name of its class."""
    if description.get("model_type") != MCLConfig.model_type:
        raise InputError(
            "--with-pretraining is for pre-training models: a detector has no target network or predictors"
        )
    for place in (source / PRETRAINING, source):
        whole = whole_class(find_folder(str(place))[1]) if (place / "config.json").is_file() else None
        if whole is not None:
            break
    else:
        raise InputError(f"--with-pretraining: {source} holds no pretraining/ folder, only the slim model")
    target = model / PRETRAINING
    target.mkdir()
    for pattern in _MODEL_FILES:
        for path in place.glob(pattern):
            shutil.copyfile(path, target / path.name)
    if with_code:
        name_code(target)
    return whole


def _card(source: Path, repository: str, title: str, folder: Path, contents: Contents, pretraining: str | None) -> str:
    """The user's own card, or the one of the records, whose pictures go into the folder."""
    if contents.card is not None:
        try:
            text = contents.card.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--card {contents.card} cannot be read: {error}") from error
    else:
        if is_somebodys(source / CARD):
            print(f"{source / CARD} was written by somebody; the release has the rendered card, or that by --card FILE")
        told = {name: getattr(contents, name) for name in _OF_THE_CARD}
        text = render_card(source, repository=repository, title=title, pictures=folder, pretraining=pretraining, **told)
        text = sealed(text)
    check_card(text)
    return text


def write_space(folder: Path, repository: str, title: str, licence: dict[str, str | None]) -> None:
    """Write the Space beside a model into a new folder: the page of `mcl-hf demo` for everybody who may see it, which
    fetches the model from its own repository; `licence` as of `licence_fields`."""
    folder.mkdir()
    (folder / "app.py").write_text(_APP.format(repository=repository), encoding="utf-8")
    (folder / "requirements.txt").write_text(_REQUIREMENTS.format(version=__version__), encoding="utf-8")
    header = SpaceCardData(
        title=title, sdk="gradio", sdk_version=GRADIO, python_version="3.11", app_file="app.py", **licence,
        models=[repository], tags=["mcl_hf"],
    )  # fmt: skip
    _write_readme(folder, "space_card.md", header, repository, title)


def _write_readme(folder: Path, template: str, header: CardData, repository: str, title: str, **more: Any) -> None:
    """The card of what lies beside the model."""
    endpoint = without_private_parts(constants.ENDPOINT)
    about = {"metadata": header.to_yaml(), "title": title, "repository": repository, "endpoint": endpoint, **more}
    text = sealed(fill_template(Path(__file__).with_name(template), **about))
    (folder / CARD).write_text(text, encoding="utf-8")
