"""Many jobs in one call: each is judged by itself."""

from __future__ import annotations

from typing import Any

import gevent

from contracts.enqueue import Accepted
from contracts.errors import KamishibaiError
from contracts.orders import Idempotency, Order
from contracts.requests import JobBody
from server.admission import parse
from server.calls import enqueue_all, job_order
from server.services import Services

TURN_JOBS = 16  # after so many the other clients of this process have a turn


def enqueue_bulk(
    here: Services, bodies: list[dict[str, Any]], idempotency: Idempotency | None
) -> list[Accepted | KamishibaiError]:
    """What became of each body, in their order."""
    judged: list[Order | KamishibaiError] = []
    for number, fields in enumerate(bodies):
        judged.append(_judge(here, fields, _part(idempotency, number)))
        if number % TURN_JOBS == 0:
            gevent.sleep(0)
    outcomes = iter(enqueue_all(here, [each for each in judged if isinstance(each, Order)]))
    return [next(outcomes) if isinstance(each, Order) else each for each in judged]


def _judge(here: Services, fields: dict[str, Any], idempotency: Idempotency | None) -> Order | KamishibaiError:
    try:
        body = parse(JobBody, fields)
        return job_order(here, here.admission.job(body), body, idempotency)
    except KamishibaiError as error:
        return error


def _part(idempotency: Idempotency | None, number: int) -> Idempotency | None:
    return idempotency and idempotency._replace(key=f"{idempotency.key}:{number}")
