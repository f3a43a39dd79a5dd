"""Which parts of a network `--compile` hands to torch.compile: those that do the work, each one graph.

Where it sits: pretrain (and scripts/benchmark_step.py) -> **compile_parts** -> step. Montages, predictors and contrast
stay as they are: their shapes change with the level, and they cost little.
"""

from typing import Any


def compile_parts(network: Any) -> None:
    """Compile backbone, FPN and region head of the online network and, where there is one, of the target, in place.

    Names and tensors stay the same, so checkpoints do too. The first steps are slow.

    Args:
        network: `MCLForPreTraining` or `MCLForSupervisedPreTraining`, not wrapped.
    """
    for part in (network.mcl, getattr(network, "target", None)):
        for module in (part.backbone, part.fpn, part.region_head) if part is not None else ():
            module.compile()
