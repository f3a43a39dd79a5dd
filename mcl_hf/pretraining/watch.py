"""The run's health, from one logging step to the next: measured, judged, said, and remembered in the checkpoint.

Where it sits: the loop owns one `HealthWatch`; the numbers are in `health.py`, the rules in `collapse.py`. Nothing here
happens between logging steps, so nothing here makes the host wait for the device there.
"""

from typing import Any

from ..engine.health import effective_rank, relative_distance, second_moments
from ..engine.run import Run
from .collapse import CollapseError, HealthBounds, Streaks, observe, verdicts


class HealthWatch:
    """Measures and judges a run at its logging steps. All ranks must call `measure` and `judge`.

    Args:
        run: its `state.health` is continued.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.bounds = health_bounds(run)
        self.fatal: str | None = None
        self.enough = False  # pre-training runs its whole length

    def due(self, step: int) -> bool:
        """Never: it judges what is logged anyway."""
        return False

    def measure(self, outputs: dict[str, Any]) -> dict[str, Any]:
        """A step's outputs with `effective_rank` of its queries over all ranks, and `target_distance`, the relative
        distance of target and online parameters."""
        numbers = {name: value for name, value in outputs.items() if name != "queries"}
        # (sides, L, D, D), summed over ranks: the rank is that of the whole batch
        moments = self.run.accelerator.reduce(second_moments(outputs["queries"]), "sum")
        ranks = effective_rank(moments)  # (sides, L)
        numbers["effective_rank"] = ranks[0] if len(ranks) == 1 else ranks.T  # (L,) or (L, 2)
        if hasattr(self.run.network, "target"):
            network = self.run.network
            numbers["target_distance"] = relative_distance(network.target.parameters(), network.mcl.parameters())
        return numbers

    def judge(self, record: dict[str, Any]) -> None:
        """Take a record into account; what is new goes to the console and into `record["health"]`.

        Sets `fatal` where the run was asked to stop on what was found.
        """
        run = self.run
        streaks: Streaks = observe(run.state.health.get("streaks", {}), record, self.bounds)
        lines = verdicts(streaks, record, self.bounds)
        new = [line for rule, line in lines.items() if rule not in run.state.health.get("said", [])]
        run.state.health = {"streaks": streaks, "said": sorted(lines)}
        if new:
            record["health"] = new
        for line in new:
            run.tracking.print(f"warning: {line}")
        if run.arguments.on_collapse == "stop" and run.total_over_ranks(int(bool(lines))):
            self.fatal = next(iter(lines.values()), "another process has collapsed")
            run.state.health = {}  # a run that continues from here, with other options, starts counting anew

    def error(self) -> CollapseError:
        """What ends the run, after the step was saved."""
        return CollapseError(
            f"{self.fatal}. Stopped after step {self.run.state.step}, which is saved: continue with --resume auto and "
            "other options, or with --on-collapse warn"
        )


def health_bounds(run: Run) -> HealthBounds:
    """Bounds for a run's batches: of its last forward pass on all ranks, which the health numbers are of."""
    config, world_size = run.network.config, run.accelerator.num_processes
    batch_size, _ = run.arguments.batch_sizes(world_size)
    possible = min(config.embedding_dim, batch_size * world_size)
    possible = min(possible, min(run.network.layout(batch_size).cells) * world_size)
    if run.arguments.objective == "supervised":  # trained classes become the corners of a simplex
        possible = min(possible, max(1, config.num_labels - 1))
    return HealthBounds(config.embedding_dim, possible, run.warmup_steps)
