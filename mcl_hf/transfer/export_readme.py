"""README.md of an exported folder: what is in it, how it is opened, and what must not be changed.

Where it sits: to_* -> **export_readme**, whose words are in `export_readme.md` -> export.
"""

from pathlib import Path

from ..files import fill_template
from ..version import __version__
from .checkpoint import Checkpoint
from .convert import Coverage
from .detector_configs import ANCHORS_FILE
from .to_timm import feature_options


def note(checkpoint: Checkpoint, coverage: Coverage, to: str, out: Path, folder: Path) -> str:
    """The text.

    Args:
        checkpoint: that was exported.
        coverage: of the export.
        to: the target.
        out: name of the folder, once it is whole.
        folder: where its files lie now.
    """
    config, (mean, std) = checkpoint.config, checkpoint.statistics
    return fill_template(
        Path(__file__).with_suffix(".md"),
        version=__version__,
        to=to,
        out=out,
        coverage=coverage,
        network=checkpoint.network,
        backbone=config.backbone,
        channels=config.num_channels,
        feature_options=feature_options(config.backbone, config.num_channels, config.backbone_kwargs)
        if to == "timm"
        else "",
        own_anchors=(folder / ANCHORS_FILE).is_file(),
        with_code=(folder / "modeling_mcl.py").is_file(),
        mean=mean,
        std=std,
    )
