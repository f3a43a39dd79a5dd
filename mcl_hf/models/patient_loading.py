"""`from_pretrained` that asks the Hub again while it is away, for every class of ours.

    `MCLConfig`, `MCLPreTrainedModel`, `MCLImageProcessor` -> **patient_loading** -> hub_retry -> transformers

transformers asks for a file's headers once and for its contents once: one reset connection ends it otherwise.
"""

from contextvars import ContextVar
from pathlib import Path
from typing import Any

from .hub_retry import call_with_retries

_inside: ContextVar[bool] = ContextVar("inside", default=False)  # a model loads its configuration: one patience for all


class PatientLoading:
    """Goes before the class of transformers whose `from_pretrained` it repeats."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; while the Hub is busy or out of reach, up to six times within half a minute."""
        load: Any = super().from_pretrained  # type: ignore[misc]  # of the class that follows
        name = pretrained_model_name_or_path
        if _inside.get() or name is None or Path(name).exists():
            return load(name, *args, **kwargs)
        token = _inside.set(True)
        try:
            return call_with_retries(load, name, *args, what=f"loading {cls.__name__} from {name}", **kwargs)
        finally:
            _inside.reset(token)


__all__ = ["PatientLoading"]
