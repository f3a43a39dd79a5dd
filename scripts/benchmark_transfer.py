"""The transfer benchmark: pre-train in several ways, transfer, and compare.

    python scripts/benchmark_transfer.py --scale smoke                    # minutes on two cores; proves the machinery
    python scripts/benchmark_transfer.py --scale cpu --data 'scenes/fold-{fold}' --hours 8    # hours, beside other work
    python scripts/benchmark_transfer.py --scale gpu --data 'scenes/fold-{fold}'              # ResNet-18, 128 px
    python scripts/benchmark_transfer.py --scale gpu-50 --data 'scenes/fold-{fold}'           # ResNet-50, 224 px
    python scripts/benchmark_transfer.py --scale cpu --list               # what is done, what is open, estimated hours
    python scripts/benchmark_transfer.py --scale cpu --report             # tables and plots of what is there
    python scripts/benchmark_transfer.py --scale cpu --data ... --tune mcl    # at most six trials, validation split
    python scripts/benchmark_transfer.py --scale cpu --data ... --pictures SCENES.json    # what is found, and where

The data of each fold comes from `scripts/make_scenes.py generate --fold F --size PX`, with 96 px for cpu, 256 px for
gpu and 448 px for gpu-50; smoke draws its own. Every arm, fold, seed and step of the pipeline is a job in a process of
its own, and writes one JSON file into evaluation/transfer/SCALE/ when it is done; a job whose file is there is never
run again. Kill it when you like: the same command goes on. Two of them side by side share the work, each with one
thread. `scripts/transfer/` holds the parts: arms.py says what differs, scales.py what is equal, statistics.py what may
be concluded.

These are composed scenes, not photographs of scenes: numbers compare arms with each other, never with COCO's.
"""

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mcl_hf.errors import InputError  # noqa: E402
from scripts.transfer import cost_job, pictures, report, runner, toy_data, tuning  # noqa: E402
from scripts.transfer.arms import ARMS, find_arm  # noqa: E402
from scripts.transfer.jobs import Bench, Job, plan_jobs, read_result, write_json  # noqa: E402
from scripts.transfer.scales import SCALES, find_scale  # noqa: E402


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    description, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", required=True, choices=sorted(SCALES), help="what is equal for all arms")
    parser.add_argument(
        "--data", metavar="FOLDER", help="scenes of each fold, with {fold} where its number stands; smoke draws its own"
    )
    parser.add_argument("--contact", type=Path, metavar="FOLDER", help="second set, for class-agnostic AP of detectors")
    parser.add_argument("--only", action="append", metavar="ARM", help=f"an arm; may be repeated: {', '.join(ARMS)}")
    parser.add_argument("--fold", type=int, action="append", metavar="F", help="a fold, 0 to 5; may be repeated")
    parser.add_argument("--seed", type=int, action="append", metavar="S", help="a seed; may be repeated")
    parser.add_argument("--detection", action="append", metavar="NAME", help="a way of fine-tuning; may be repeated")
    parser.add_argument("--split", choices=("test", "val"), default="test", help="what is asked (test)")
    parser.add_argument("--visits", type=int, metavar="N", help="image visits of MCL's pre-training (the scale's)")
    parser.add_argument("--hours", type=float, metavar="H", help="start no job after so many hours")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of each job on the CPU (1)")
    parser.add_argument("--nice", type=int, default=10, metavar="N", help="how far other work goes first, 0 to 19 (10)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="results (evaluation/transfer/SCALE)")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="checkpoints (runs/transfer/SCALE)")
    parser.add_argument("--list", action="store_true", help="print what is done and what is open")
    parser.add_argument("--report", action="store_true", help="write tables and plots of what is there")
    parser.add_argument("--pictures", type=Path, metavar="JSON", help="draw what is found in these scenes")
    parser.add_argument("--tune", metavar="ARM", help=f"search options of an arm: {', '.join(tuning.TRIALS)}")
    parser.add_argument(
        "--trials",
        type=int,
        choices=range(1, tuning.MOST_TRIALS + 1),
        default=tuning.MOST_TRIALS,
        help=f"how many of the trials --tune runs, the first ones ({tuning.MOST_TRIALS})",
    )
    parser.add_argument("--cost", action="store_true", help="measure time and memory of a step of every arm")
    parser.add_argument("--run-job", metavar="NAME", help=argparse.SUPPRESS)  # what a job's own process is told
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; exit code."""
    args = parse(arguments)
    try:
        return run(args)
    except InputError as error:
        print(f"benchmark_transfer: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def run(args: argparse.Namespace) -> int:
    """What the command does.

    Raises:
        InputError: something given cannot be used.
    """
    scale = find_scale(args.scale)
    if args.detection:
        scale = replace(scale, detections=[scale.detection(name) for name in args.detection])
    arms = [find_arm(name).name for name in args.only or scale.arms]
    folds, seeds = args.fold or list(scale.folds), args.seed or list(scale.seeds)
    work = args.work or ROOT / "runs" / "transfer" / scale.name
    bench = Bench(
        scale=scale,
        visits=args.visits or scale.visits,
        data=args.data or str(work / "data" / "fold-{fold}"),
        work=work,
        out=args.out or ROOT / "evaluation" / "transfer" / scale.name,
        contact=args.contact,
        split="val" if args.tune else args.split,
    )
    whole = replace(bench, scale=find_scale(args.scale))  # tables are of all detectors, whichever are run now
    jobs = (
        tuning_jobs(bench, args.tune, folds[0], seeds[0], args.trials)
        if args.tune
        else plan_jobs(bench, arms, folds, seeds)
    )
    if args.run_job:
        (job,) = [job for job in [*jobs, *cost_job.cost_jobs(arms)] if job.name == args.run_job]
        return runner.run_as_child(bench, job)
    if args.list:
        print("\n".join(report.listing(bench, jobs)))
        return 0
    if args.report:
        print("\n".join(f"written: {path}" for path in report.write(whole, plan_jobs(whole, arms, folds, seeds))))
        return 0
    if args.pictures:
        print("\n".join(f"written: {path}" for path in pictures.draw_pictures(bench, arms, args.pictures)))
        return 0
    if args.data is None:
        if scale.name != "smoke":
            raise InputError(f"--scale {args.scale} needs --data, such as --data 'scenes/fold-{{fold}}'")
        for fold in folds:
            toy_data.draw_data(bench.fold_folder(fold), fold)
    for fold in folds:
        bench.data_of(fold)
    os.nice(args.nice)
    command = [sys.executable, str(Path(__file__).resolve()), *child_options(args, bench)]
    if args.cost:
        jobs = cost_job.cost_jobs(arms)
    code = runner.run_all(bench, jobs, command, args.hours, args.threads)
    if args.tune:
        probes = {job.trial: read_result(bench, job) for job in jobs if job.kind == "probe" and job.trial is not None}
        found = tuning.record(args.tune, {trial: result for trial, result in probes.items() if result})
        write_json(bench.out / "tuning" / f"{args.tune}.json", found)
        print(f"written: {bench.out / 'tuning' / f'{args.tune}.json'}; best trial: {found['best']}")
    elif code == runner.DONE:
        print("\n".join(f"written: {path}" for path in report.write(whole, plan_jobs(whole, arms, folds, seeds))))
    return code


def tuning_jobs(bench: Bench, arm: str, fold: int, seed: int, trials: int = tuning.MOST_TRIALS) -> list[Job]:
    """Pre-training and probe of the first `trials` trials."""
    jobs = []
    for trial in range(len(tuning.trials_of(arm)[:trials])):
        jobs.append(Job("pretrain", arm, fold, seed, trial=trial))
        jobs.append(Job("probe", arm, fold, seed, split="val", trial=trial))
    return jobs


def child_options(args: argparse.Namespace, bench: Bench) -> list[str]:
    """The same options for the process of one job, which is named last."""
    options = ["--scale", args.scale, "--data", bench.data, "--out", str(bench.out), "--work", str(bench.work)]
    options += ["--visits", str(bench.visits), "--split", args.split]
    options += ["--contact", str(args.contact)] if args.contact else []
    options += ["--tune", args.tune, "--trials", str(args.trials)] if args.tune else []
    for name, values in (
        ("--only", args.only), ("--fold", args.fold), ("--seed", args.seed), ("--detection", args.detection),
    ):  # fmt: skip
        options += [word for value in values or [] for word in (name, str(value))]
    return [*options, "--run-job"]


if __name__ == "__main__":
    raise SystemExit(main())
