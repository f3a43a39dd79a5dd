"""Who reads what, without reading anything: the order of streams over many shards, ranks and workers.

Checks, on samples of one epoch, that ranks and workers share the images without overlap or loss, and prints what a
position costs. The defaults are 1,024 processes of 8 workers over 10^9 images:

    python scripts/simulate_order.py
    python scripts/simulate_order.py --ranks 16 --workers 2 --shards 200 --shard-rows 1000
"""

import argparse
import sys
import time
import tracemalloc

import numpy as np

from mcl_hf.data import StreamOrder


def main() -> int:
    """Print the table; exit code 1 where a sample is not split as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=100_000, help="number of shards")
    parser.add_argument("--shard-rows", type=int, default=10_000, help="images of a shard")
    parser.add_argument("--ranks", type=int, default=1024, help="processes")
    parser.add_argument("--workers", type=int, default=8, help="workers of a process")
    parser.add_argument("--batch-size", type=int, default=32, help="images per process and step")
    parser.add_argument("--samples", type=int, default=8, help="readers, and runs of lanes, that are looked at")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    ranks, workers, batch = arguments.ranks, arguments.workers, arguments.batch_size
    step_images = ranks * batch
    rng = np.random.default_rng(arguments.seed)

    # --- cost ---------------------------------------------------------------------------------------------------------
    tracemalloc.start()
    order = StreamOrder(np.full(arguments.shards, arguments.shard_rows), arguments.seed, step_images)
    start = time.perf_counter()
    order.index(np.arange(batch))
    first_s = time.perf_counter() - start
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    images = order.num_samples
    steps = images // step_images
    print(f"{images:,} images in {arguments.shards:,} shards; {ranks:,} ranks x {workers} workers x {batch} images")
    print(f"{steps:,} steps an epoch, {order.lanes:,} lanes of {order.lane_rows:,} images")
    calls = 200
    start = time.perf_counter()
    for step in rng.integers(0, max(1, steps), calls).tolist():
        order.index(step * step_images + np.arange(batch))
    print(f"{(time.perf_counter() - start) / calls / batch * 1e6:.2f} us a position, asked for a batch at a time")
    print(f"{first_s * 1e3:.0f} ms for the first batch of an epoch, wherever it starts")
    print(f"{kept / 1e6:.1f} MB kept by each worker, {peak / 1e6:.1f} MB at the most")

    # --- readers: what a worker of a rank takes in its steps, as the loader hands them out ----------------------------
    chosen = [(int(rng.integers(ranks)), int(rng.integers(workers))) for _ in range(arguments.samples)]
    taken = []
    for rank, worker in sorted(set(chosen)):
        own_steps = np.arange(worker, steps, workers)[:, None]
        taken.append(order.index(own_steps * step_images + rank * batch + np.arange(batch)).reshape(-1))
    together = np.concatenate(taken)
    overlap = len(together) - len(np.unique(together))
    print(f"{len(taken)} readers took {len(together):,} images; {overlap} of them twice")

    # --- lanes: whatever lies between the ends of neighbouring lanes must be there, each row once ---------------------
    lost, shards_seen, readers = 0, 0, []
    whole = order.lane_rows // order.chunk * order.chunk
    for first in rng.integers(0, max(1, order.lanes - 3), arguments.samples).tolist():
        lanes = np.arange(first, min(first + 4, order.lanes))
        rounds, within = np.divmod(np.arange(whole), order.chunk)
        positions = (rounds * order.lanes + lanes[:, None]) * order.chunk + within
        left = order.lane_rows - whole  # handed out in the shorter last round
        last = whole * order.lanes + lanes[:, None] * left + np.arange(left)
        indices = order.index(np.concatenate([positions.reshape(-1), last.reshape(-1)]))
        # the two shards that stick out of the run at its ends have the fewest rows in it
        _, counts = np.unique(order.shard_and_row(indices)[0], return_counts=True)
        lost += int((np.sort(counts)[2:] < arguments.shard_rows).sum()) + len(indices) - len(np.unique(indices))
        lost += int((np.sort(counts) > arguments.shard_rows).sum())
        shards_seen += max(0, len(counts) - 2)
        for lane in positions:
            step, rest = np.divmod(lane, step_images)
            readers.append(len(np.unique(rest // batch * workers + step % workers)))
    print(f"{shards_seen} shards that lie whole in the lanes looked at; {lost} rows missing or double")
    print(f"a lane is read by {np.mean(readers):.2f} workers on average, {max(readers)} at the most")
    return 1 if overlap or lost else 0


if __name__ == "__main__":
    sys.exit(main())
