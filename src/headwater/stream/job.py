"""What a stream engine is asked to do: frozen data, compiled from the metric definitions in force."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from headwater.catalog.port import ControlReader
from headwater.model.metric import Metric


@dataclass(frozen=True)
class StreamJob:
    """`metrics`: project -> the metric versions to keep panes of. `revision`: of control when it was compiled."""

    revision: int = -1
    metrics: Mapping[str, tuple[Metric, ...]] = field(default_factory=dict)


def compile_job(control: ControlReader) -> StreamJob:
    """The job for all projects. A change that is committed meanwhile shows in a higher revision afterwards."""
    revision = control.revision()
    return StreamJob(revision, {p.id: tuple(control.metrics(p.id)) for p in control.projects()})
