"""Does a start help on one's own data? One plan, jobs that can be killed, and one answer.

Flow: plan (what is asked) -> starts, labelled (what every job gets) -> jobs (which there are) -> runner, run_job (each
in a process of its own) -> answer (means and paired differences) -> report (sentence, tables, picture).
"""

from ..lazy import names_of

_HOME = {"Answer": "answer", "ComparePlan": "plan", "load_plan": "plan"}
"""Public name -> the file that defines it; loaded on first use."""

__all__ = sorted(_HOME)
__getattr__ = names_of(__name__, _HOME)
