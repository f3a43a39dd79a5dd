"""The card that a run ends with.

A callback of the training loop (`mcl_hf.engine.run.Callback`), one of `default_callbacks`.
"""

from typing import TYPE_CHECKING

from ..errors import InputError
from ..files import is_somebodys, sealed
from ..hub.card import render_card, write_card

if TYPE_CHECKING:
    from ..engine.run import Run


class CardWriter:
    """The card takes the place of a finished run's README, if that is not somebody's."""

    def on_end(self, run: "Run") -> None:
        """Write it on the main process. The model is whole by then, so a card that cannot be written is only said."""
        if not run.accelerator.is_main_process:
            return
        readme = run.output_dir / "README.md"
        if is_somebodys(readme):
            run.tracking.print(f"{readme} was written by somebody, and stays: mcl-hf card --out FILE writes the card")
            return
        try:
            write_card(readme, sealed(render_card(run.output_dir, pictures=run.output_dir)))
        except InputError as error:
            run.tracking.print(f"warning: no card was written: {error}")
