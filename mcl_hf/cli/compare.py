"""`mcl-hf compare`: several starts, the user's own annotated images, and which of the starts helps."""

from pathlib import Path

from ..comparison.plan import ComparePlan, load_plan
from ..new_folder import output_folder
from .command import Parser, command, import_torch
from .options import add_flags, given_flags

EXAMPLES = """
examples:
  mcl-hf compare --data my-coco --unlabelled my-images --starts random,timm:resnet50,mcl --images 25,100,all \\
      --output-dir answer --dry-run
  mcl-hf compare my-plan.yaml
"""


@command
def main(argv: list[str]) -> int:
    """Run the command."""
    description = "Pre-train and fine-tune from several starts, and say which of them helps, by how much."
    usage = "mcl-hf compare [PLAN.yaml] [options]"
    parser = Parser(prog="mcl-hf compare", usage=usage, description=description, epilog=EXAMPLES)
    parser.add_argument("plan", nargs="?", metavar="PLAN.yaml", help="fields of the plan, which flags override")
    parser.add_argument("--dry-run", action="store_true", help="check all, print jobs, operations, hours and disk")
    parser.add_argument("--new-plan", action="store_true", help="put the answer of another plan away, and begin anew")
    parser.add_argument(
        "--only", action="extend", nargs="+", metavar="PATTERN",
        help="run only jobs with such names, and those that they need",
    )  # fmt: skip
    add_flags(parser, ComparePlan)
    namespace = parser.parse_args(argv)
    plan = load_plan(namespace.plan, **given_flags(namespace, ComparePlan))
    if plan.output_dir is None and namespace.plan is not None:
        plan.output_dir = str(Path(namespace.plan).parent)  # a plan's answer lies beside it
    output_folder(plan.output_dir, [])  # refused before the seconds that torch takes

    import_torch()
    from ..comparison.compare import compare

    answer = compare(plan, dry_run=namespace.dry_run, new_plan=namespace.new_plan, only=namespace.only)
    return 130 if answer.stopped_by == "SIGINT" else 0
