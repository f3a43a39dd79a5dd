"""A rehearsal of a fine-tuning run: a few real steps in a process and a folder of their own.

Where it sits: `mcl-hf doctor --plan` with a recipe of fine-tuning; `mcl_hf.pretraining.rehearsal` measures it.

    python -m mcl_hf.finetuning.rehearsal < arguments.json
"""

from dataclasses import replace
from typing import Any

from ..annotations.detection_data import DetectionData
from ..detectors.start_detector import start_side
from ..pretraining.plan import Measured
from ..pretraining.rehearsal import reads_options, rehearse_task
from .arguments import FinetuneArguments
from .data import training_data, validation_data
from .train_loader import DetectionLoader
from .train_transform import TrainTransform


def rehearse_detector(arguments: FinetuneArguments, batch_size: int) -> Measured:
    """`rehearse_task` for fine-tuning with resolved options, `batch_size` images per process and forward pass."""
    unwatched: dict[str, Any] = {"eval_every_steps": 0, "early_stopping_patience": 0, "precise_bn_steps": 0}
    return rehearse_task(arguments, batch_size, "mcl_hf.finetuning.rehearsal", batch_size, **unwatched)


def resolve(arguments: FinetuneArguments) -> tuple[FinetuneArguments, DetectionData]:
    """Options without gaps, and the data that they were filled from.

    Raises:
        InputError: what the run itself would refuse of its data.
    """
    data = training_data(arguments)
    side = start_side(arguments.init or "random") if arguments.auto else None
    return replace(arguments.resolved(data.widths, data.heights, data.has_masks, side), auto=False), data


def open_train_loader(arguments: FinetuneArguments, data: DetectionData, batch_size: int) -> DetectionLoader:
    """The batches of a run, in this process."""
    steps = arguments.total_steps(len(data), batch_size)
    transform = TrainTransform.of(arguments, batch_size, steps * batch_size)
    return DetectionLoader(data, transform, batch_size=batch_size, seed=arguments.seed)


def _main(options: dict[str, Any]) -> None:
    from .finetune import finetune

    arguments = FinetuneArguments(**options)
    data = training_data(arguments)
    validation = validation_data(arguments, data, [])
    # one image is enough, if it has something to find: there is no AP without objects
    fullest = None if validation is None else validation.select([int(validation.num_objects.argmax())])
    finetune(arguments, train_on=data, measure_on=fullest)


if __name__ == "__main__":
    raise SystemExit(reads_options(_main))
