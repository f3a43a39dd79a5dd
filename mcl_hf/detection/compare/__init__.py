"""Does a start help on one's own data? One plan, jobs that can be killed, and one answer.

Flow: plan (what is asked) -> starts, labelled (what every job gets) -> jobs (which there are) -> runner, run_job (each
in a process of its own) -> answer (means and paired differences) -> report (sentence, tables, picture).
"""

from mcl_hf.detection.compare.answer import Answer
from mcl_hf.detection.compare.compare import compare
from mcl_hf.detection.compare.plan import ComparePlan, load_plan

__all__ = ["Answer", "ComparePlan", "compare", "load_plan"]
