"""Probes during a run: what the region features know, every so many steps, without a trace in the training.

A callback of the training loop (`mcl_hf.engine.run.Callback`); one of `default_callbacks`. With `probe_data` it
asks for classes, without it whether an image of the run's own data is found again. Numbers of the region head's
features go into the log's records as `probe/...`, the best one into `TrainingState.best`.
"""

import time
from typing import TYPE_CHECKING, Any

import torch

from ..engine.run import on_main_process
from ..errors import InputError
from ..pretraining.arguments import PretrainArguments
from ..probe import ObjectProbe, ViewProbe
from ..probe.region_features import MAIN_FEATURE

if TYPE_CHECKING:
    from ..engine.run import Run

SHARE_OF_TIME = 0.015
"""Share of an attempt's time that probes are planned for, where their period is left to them: what they take in the end
jumps with the machine's load and should stay under 2 %."""

_PER_IMAGE = {"objects": 2.0, "views": 1.0}
"""Guess before the first probe: an image of it costs at most as much as so many images of a training step."""


class RunProbe:
    """Probes the online network on the main process; the others wait for it. Annotated data are opened and read at
    once, so that what is wrong with them is an InputError before any work."""

    def __init__(self, arguments: PretrainArguments) -> None:
        self._probe: ObjectProbe | ViewProbe | None = None
        self._off = arguments.probe_every_steps < 0
        self._kind = "views" if arguments.probe_data is None else "objects"
        self._began: float | None = None
        self._seconds = 0.0  # spent on probes
        self._longest = 0.0  # of them
        if arguments.probe_data is not None and not self._off:
            from ..annotations.open_data import open_detection_data

            data = open_detection_data(
                arguments.probe_data,
                skip_broken=True,
                check_files=False,
                allow_outside_paths=arguments.allow_outside_paths,
            )
            self._probe = ObjectProbe(data, arguments.model_config(), arguments.probe_images, arguments.seed)

    def on_record(self, run: "Run", record: dict[str, Any]) -> None:
        """Add `probe/...` numbers to the record, where a probe is due. All ranks."""
        every, step = run.arguments.probe_every_steps, run.state.step
        if self._began is None:  # with the steps that led to the first record
            window = run.arguments.log_every_steps * run.state.global_batch_size / record["images_per_second"]
            self._began = time.perf_counter() - window
        if self._off or (every > 0 and not is_due(step, every, run.arguments.log_every_steps, run.state.max_steps)):
            return
        numbers = on_main_process(run.accelerator, lambda: self._on_main_process(run, record))
        if numbers is None:
            self._off = True
        elif numbers:
            record.update(numbers)
            best = numbers["probe/knn" if "probe/knn" in numbers else "probe/same_level"]
            if best >= run.state.best.get("probe", best):
                run.state.best = run.state.best | {"probe": best, "probe_step": step}

    def _on_main_process(self, run: "Run", record: dict[str, Any]) -> dict[str, float] | None:
        """The numbers; an empty dict where it is not worth the time yet, None where there will never be any."""
        now = time.perf_counter()
        began = now if self._began is None else self._began
        seconds_per_image = run.accelerator.num_processes / record["images_per_second"]
        expected = self._longest or _PER_IMAGE[self._kind] * run.arguments.probe_images * seconds_per_image
        enough = self._seconds + expected <= SHARE_OF_TIME * (now - began)
        if run.arguments.probe_every_steps == 0 and not enough:
            return {}
        if self._probe is None:
            try:
                images, seed = run.arguments.probe_images, run.arguments.seed
                self._probe = ViewProbe(run.loader.source, run.network.config, images, seed)
            except InputError as error:
                run.tracking.print(f"no probes in this run: {error}")
                return None
        with run.accelerator.autocast(), torch.compiler.set_stance("force_eager"):
            measured = self._probe.measure(run.network.mcl, (MAIN_FEATURE,))
        taken = time.perf_counter() - now
        self._seconds += taken
        self._longest = max(taken, self._longest)
        values = measured["features"][MAIN_FEATURE]
        numbers = {f"probe/{name}": values[name]["all"] for name in ("knn", "linear") if name in values}
        numbers |= {f"probe/{name}": values[name] for name in ("same_level", "other_level") if values[name] is not None}
        if "crops" in measured:  # what the two levels are of
            numbers["probe/level_chance"] = measured["crops"]["chance"]
        elapsed = max(time.perf_counter() - began, 1e-9)
        return {**numbers, "probe/chance": measured["chance"], "probe/share_of_time": min(1.0, self._seconds / elapsed)}


def is_due(step: int, every: int, log_every: int, max_steps: int) -> bool:
    """Whether a multiple of `every` lies after the logging step before this one; the last step always counts."""
    before = (step - 1) // log_every * log_every
    return step == max_steps or step // every > before // every
