"""Does pushing checkpoints in the background slow training? Runs with and without, in turn, against a Hub on loopback.

    python scripts/benchmark_push.py --rounds 3            demo recipe, a checkpoint every 5 steps, uploads of 2 s

The Hub is that of the tests (`tests/hub_server.py`), in this process; each run is a process of its own with one thread,
so two cores are enough. Printed are seconds a step (median of a run's log lines after the first) and their ratios.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.hub_server import Hub  # noqa: E402  # beside the package, not in it


def train(folder: Path, hub: Hub, steps: int, push: bool) -> list[float]:
    """Seconds between the lines that one run logs, one a step."""
    command = [
        sys.executable, "-m", "mcl_hf.cli", "pretrain", "--recipe", "demo", "--output-dir", str(folder),
        "--max-steps", str(steps), "--save-every-steps", "5", "--keep-last", "2", "--log-every-steps", "1",
        "--num-workers", "0", "--device", "cpu", *(["--push-to-hub", f"alice/{folder.name}"] if push else []),
    ]  # fmt: skip
    environment = {
        **os.environ, "HF_ENDPOINT": hub.endpoint, "HF_TOKEN": "hf_alice", "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(folder.parent / "cache"), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    environment.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    seconds = [json.loads(line)["seconds"] for line in (folder / "log.jsonl").read_text().splitlines()]
    return [after - before for before, after in pairwise(seconds)]


def main() -> None:
    """Print one line a round, and the median of the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="pairs of runs (3)")
    parser.add_argument("--steps", type=int, default=30, help="steps of a run (30)")
    parser.add_argument("--delay", type=float, default=2.0, help="seconds that each upload takes at least (2)")
    options = parser.parse_args()
    ratios = []
    with tempfile.TemporaryDirectory() as name, Hub(Path(name) / "hub") as hub:
        hub.fault("slow", method="PUT", count=-1, delay_s=options.delay)
        for number in range(options.rounds):
            order = (False, True) if number % 2 == 0 else (True, False)
            times = {push: train(Path(name) / f"{number}-{push}", hub, options.steps, push) for push in order}
            pushed = sum(f"alice/{number}-True/commit" in request.path for request in hub.requests)
            without, with_push = statistics.median(times[False]), statistics.median(times[True])
            ratios.append(with_push / without)
            total = sum(times[True]) / sum(times[False])
            print(
                f"round {number + 1}: {without:.3f} s a step without, {with_push:.3f} s with {pushed} pushes: "
                f"{ratios[-1]:.3f} (median steps), {total:.3f} (all steps)",
                flush=True,
            )
    print(f"median ratio {statistics.median(ratios):.3f} of {len(ratios)}, {min(ratios):.3f} to {max(ratios):.3f}")


if __name__ == "__main__":
    main()
