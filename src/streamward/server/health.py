"""Liveness, readiness and metrics endpoints."""

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field
from starlette.requests import Request

from streamward.server.state import ServiceState, service_state

router = APIRouter(tags=["operations"])


class Health(BaseModel):
    """The process lives."""

    status: str = Field(examples=["ok"])


class Readiness(BaseModel):
    """Readiness, with reasons if the service is not ready."""

    status: str = Field(examples=["ready"])
    problems: list[str] = []
    warnings: list[str] = []


@router.get("/health")
async def health() -> Health:
    """Say that the process lives."""
    return Health(status="ok")


@router.get("/ready", responses={503: {"model": Readiness, "description": "Do not send work."}})
async def ready(request: Request, response: Response) -> Readiness:
    """Say whether the service can work: not while it stops, its guard is stuck, or decisions cannot be logged."""
    found = await readiness(service_state(request))
    response.status_code = 503 if found.problems else 200
    return found


async def readiness(state: ServiceState) -> Readiness:
    """Return whether a service can work, and what is wrong with it."""
    problems = []
    if state.admission.is_draining:
        problems.append("the service is stopping")
    if state.audit.is_failing:
        problems.append("decisions cannot be logged")
    problems += _guard_problems(state)
    warnings = (
        [] if state.policies.problem is None else ["the policies on disk are wrong; the former ones are in force"]
    )
    warnings += [f"the upstream {name} takes no connections" for name in await state.reachability.unreachable()]
    return Readiness(status="not ready" if problems else "ready", problems=problems, warnings=warnings)


def _guard_problems(state: ServiceState) -> list[str]:
    health, most_s = state.moderator.health(), state.config.limits.guard_stall_s
    if health.failure is not None:
        return [health.failure]
    if health.step_s > most_s:
        return [f"the guard has been at one step for {health.step_s:.0f} s (limits.guard_stall_s is {most_s:g})"]
    if health.wait_s > most_s:
        return [f"a text has waited for the guard for {health.wait_s:.0f} s (limits.guard_stall_s is {most_s:g})"]
    return []


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    """Return what the service counts, for Prometheus. Keep it from the outside world at the proxy."""
    state = service_state(request)
    state.metrics.in_flight.set(state.admission.num_in_flight)
    state.metrics.audit_waiting.set(state.audit.num_waiting)
    health = state.moderator.health()
    state.metrics.guard_works.set(health.failure is None)
    state.metrics.guard_step_seconds.set(health.step_s)
    state.metrics.guard_wait_seconds.set(health.wait_s)
    for name, is_reachable in state.reachability.found.items():
        state.metrics.upstream_reachable.labels(name).set(is_reachable)
    return Response(state.metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")
