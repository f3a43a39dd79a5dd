"""What was measured of a model, as the sections of its card take it: figures, comparisons of starts, probes.

Where it sits: results.py fills these -> **measured** -> evaluation_text, card_limits, card_metadata.
"""

from dataclasses import dataclass, field
from typing import Any

from mcl_hf.hub.recorded import Recorded

FIGURES = ("AP", "AP50", "AP75")


@dataclass(frozen=True, kw_only=True)
class DetectionResult:
    """Figures of a detector, or their means over seeds.

    Attributes:
        model: what was measured, by name.
        relation: `own` for the card's model, `from_it` for a detector that was fine-tuned from it, else `other`.
        data: name of the data set.
        repository: of the data set on the Hub, if it lies there.
        split: part of it.
        images, objects: in it.
        figures: such as "box AP" -> value in [0, 1]; None or not finite where it was not measured.
        sd: spread over seeds of the same figures.
        seeds: of the runs behind it; empty where they are not recorded.
        share: of the labelled images that was trained on, in (0, 1]; None where it is not recorded.
        labelled: labelled images that a comparison trained it on, such as "25 labelled images".
        run: the fine-tuning run, for its protocol; None where it is not recorded.
        command: that measured it.
        counted_by: library that computed AP.
    """

    model: str
    relation: str
    data: str
    repository: str | None = None
    split: str | None = None
    images: int | None = None
    objects: int | None = None
    figures: dict[str, float | None] = field(default_factory=dict)
    sd: dict[str, float] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=list)
    share: float | None = None
    labelled: str | None = None
    run: Recorded | None = None
    command: str | None = None
    counted_by: str | None = None


@dataclass(frozen=True, kw_only=True)
class ComparisonResult:
    """A comparison of starts.

    Attributes:
        sentence: what it found, in its own words.
        warnings: what makes it less than fair; `failed`: jobs without a result.
        rows: one for each start and number of labelled images.
        data: of `train`, `validation` and `test`: images, objects and the annotations' fingerprint.
        protocol: of its detectors, in a few words.
        command: that made it.
    """

    sentence: str
    warnings: list[str]
    failed: list[str]
    rows: list[DetectionResult]
    data: dict[str, dict[str, Any]]
    protocol: str
    command: str


@dataclass(frozen=True, kw_only=True)
class ProbeResults:
    """Probes of one or several networks, the card's own first.

    Attributes:
        networks: name -> numbers, as `mcl_hf.probe.ProbeResult` has them.
        own: names of those that are the card's model.
    """

    networks: dict[str, dict[str, Any]]
    own: list[str]


@dataclass(frozen=True)
class Results:
    """All that was measured of a model."""

    detections: list[DetectionResult]
    comparisons: list[ComparisonResult]
    probes: list[ProbeResults]
