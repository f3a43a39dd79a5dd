"""Which images make up which training step, as a pure function of the seed and the step.

Flow: detection_data -> **train_order** -> train_loader. Wide and tall images go into different batches, so that little
of a batch is padding (detectron2's aspect-ratio grouping); what does not fill a batch of its kind is mixed.
"""

from functools import lru_cache

import numpy as np

from ..data.order import SampleOrder
from ..errors import InputError

_OF_STEPS = 0x5DEECE66D  # makes the order of the steps another one than that of the images


class TrainOrder:
    """Images of every step: each image at most once an epoch, and `N // images_per_step` steps an epoch.

    The few images that do not fill a last step are left out; another few in every epoch.

    Args:
        wide: bool `(N,)`, see `train_transform.is_wide`.
        images_per_step: over all processes.
        seed: of the order.

    Raises:
        InputError: fewer images than a step needs.
    """

    def __init__(self, wide: np.ndarray, images_per_step: int, seed: int) -> None:
        if len(wide) < images_per_step:
            raise InputError(
                f"a step needs {images_per_step} different images, but there are {len(wide)} to train on: "
                "use a smaller batch"
            )
        self.wide, self.images_per_step = wide, images_per_step
        self.steps_per_epoch = len(wide) // images_per_step
        self._images = SampleOrder(len(wide), seed)
        self._steps = SampleOrder(self.steps_per_epoch, seed ^ _OF_STEPS)

    def indices(self, step: int) -> np.ndarray:
        """Images of a 0-based step: int64 `(images_per_step,)`, those of rank 0 first."""
        epoch, number = divmod(step, self.steps_per_epoch)
        return self._epoch(epoch)[self._steps.index(epoch * self.steps_per_epoch + number)]

    def substitute(self, position: int, salt: int) -> int:
        """The `salt`-th stand-in for a broken image at `position`."""
        return self._images.substitute(position, salt)

    def _epoch(self, epoch: int) -> np.ndarray:
        """int64 `(steps_per_epoch, images_per_step)`."""
        return _epoch_table(self._images, self.wide.tobytes(), self.images_per_step, epoch)


@lru_cache(maxsize=2)  # a worker goes through an epoch step by step
def _epoch_table(images: SampleOrder, wide: bytes, images_per_step: int, epoch: int) -> np.ndarray:
    count = images.num_samples
    order = images.index(np.arange(epoch * count, (epoch + 1) * count))
    is_wide = np.frombuffer(wide, dtype=bool)[order]
    rows, rest = [], []
    for group in (order[is_wide], order[~is_wide]):
        full = len(group) // images_per_step * images_per_step
        rows.append(group[:full])
        rest.append(group[full:])
    mixed = np.concatenate(rest)
    rows.append(mixed[: len(mixed) // images_per_step * images_per_step])
    return np.concatenate(rows).reshape(-1, images_per_step)
