"""Whether the service lives, whether it can work, and what it counts."""

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field
from starlette.requests import Request

from streamward.server.state import service_state

router = APIRouter(tags=["operations"])


class Health(BaseModel):
    """The process lives."""

    status: str = Field(examples=["ok"])


class Readiness(BaseModel):
    """Whether work should be sent here, and why not."""

    status: str = Field(examples=["ready"])
    problems: list[str] = []
    warnings: list[str] = []


@router.get("/health")
async def health() -> Health:
    """Say that the process lives."""
    return Health(status="ok")


@router.get("/ready", responses={503: {"model": Readiness, "description": "Do not send work."}})
async def ready(request: Request, response: Response) -> Readiness:
    """Say whether the service can work: not while it stops, nor while decisions cannot be logged."""
    state = service_state(request)
    problems = []
    if state.admission.is_draining:
        problems.append("the service is stopping")
    if state.audit.is_failing:
        problems.append("decisions cannot be logged")
    warnings = (
        [] if state.policies.problem is None else ["the policies on disk are wrong; the former ones are in force"]
    )
    response.status_code = 503 if problems else 200
    return Readiness(status="not ready" if problems else "ready", problems=problems, warnings=warnings)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    """Return what the service counts, for Prometheus. Keep it from the outside world at the proxy."""
    state = service_state(request)
    state.metrics.in_flight.set(state.admission.num_in_flight)
    state.metrics.audit_waiting.set(state.audit.num_waiting)
    return Response(state.metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")
