"""What a batch engine is asked to do: frozen data, compiled from the metric definitions in force."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from headwater.catalog.port import ControlReader, Project
from headwater.model.metric import Metric, filter_names


@dataclass(frozen=True)
class BatchJob:
    """`metrics`: project -> the metric versions to keep rollups of. `revision`: of control when it was compiled."""

    revision: int = -1
    projects: Mapping[str, Project] = field(default_factory=dict)
    metrics: Mapping[str, tuple[Metric, ...]] = field(default_factory=dict)


def compile_job(control: ControlReader) -> BatchJob:
    """The job for all projects. A change that is committed meanwhile shows in a higher revision afterwards."""
    revision = control.revision()
    projects = {project.id: project for project in control.projects()}
    return BatchJob(revision, projects, {name: tuple(control.metrics(name)) for name in projects})


def promotions_wanted(metrics: Sequence[Metric]) -> list[tuple[str, str]]:
    """(property, `number` or `text`) for every property that a metric looks at, those that are added up first.

    A number is wanted as text too: what is there and is not a number is counted. Fields (`$...`) have columns already.
    """
    wanted: list[tuple[str, str]] = []
    for metric in metrics:
        definition = metric.definition
        if definition.property is not None and definition.aggregate != "unique":
            wanted += [(definition.property, "number"), (definition.property, "text")]
    for metric in metrics:
        definition = metric.definition
        names = [name for dimensions in metric.dimension_sets for name in dimensions] + filter_names(definition.filter)
        if definition.property is not None:
            names.append(definition.property)
        wanted += [(name, "text") for name in names]
    return [found for found in dict.fromkeys(wanted) if not found[0].startswith("$")]
