"""Everything that the routes share, opened once a process."""

from __future__ import annotations

from dataclasses import dataclass

from headwater.query.answer import Answers
from headwater.query.lookups import LookUps
from headwater.query.reading import Readings
from headwater.query.services import Services
from headwater.query.sql import SqlDesk
from headwater.query.trace import Traces


@dataclass(frozen=True)
class Desk:
    """What answers: one of each kind of question."""

    services: Services
    readings: Readings
    answers: Answers
    sql: SqlDesk
    look_ups: LookUps
    traces: Traces


def open_desk(services: Services) -> Desk:
    readings = Readings(services)
    look_ups = LookUps(services, readings)
    return Desk(
        services=services,
        readings=readings,
        answers=Answers(services, readings),
        sql=SqlDesk(services, readings),
        look_ups=look_ups,
        traces=Traces(services, readings, look_ups),
    )
