"""What a run leaves beside its model: probes, pictures and a card, the same from Python as from the commands:
`mcl_hf.pretrain` and `mcl_hf.finetune` are these here, around the runs of `pretraining` and `finetuning`."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from ..finetuning import finetune as _finetune
from ..pretraining.arguments import PretrainArguments
from ..pretraining.pretrain import pretrain as _pretrain
from .at_end import CardWriter, RunPictures
from .probes import RunProbe

T = TypeVar("T", bound=Callable[..., Any])


def default_callbacks(arguments: Any) -> list[Any]:
    """The callbacks of a run where none are given, in their order. An InputError where annotated data of `probe_data`
    cannot be opened or used."""
    if isinstance(arguments, PretrainArguments):
        return [RunProbe(arguments), RunPictures(), CardWriter()]
    return [CardWriter()]


def _with_defaults(run: T) -> T:
    @functools.wraps(run)
    def started(arguments: Any = None, *, callbacks: Sequence[Any] | None = None, **options: Any) -> Any:
        return run(arguments, callbacks=default_callbacks if callbacks is None else callbacks, **options)

    return cast(T, started)


pretrain = _with_defaults(_pretrain)
finetune = _with_defaults(_finetune.finetune)

__all__ = ["CardWriter", "RunPictures", "RunProbe", "default_callbacks", "finetune", "pretrain"]
