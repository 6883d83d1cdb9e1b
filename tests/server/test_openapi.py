"""The OpenAPI description and the service say the same, whatever is sent."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.server.services import open_service

HEADERS = {"Host": "localhost"}
# A description cannot say that a text is too long for the guard, that a policy of a name exists, and so on.
UNSAYABLE = [positive_data_acceptance]


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    """What a service says of its routes, and the headers of an admin."""
    limits = {"required": True, "requests_per_minute": 10**6, "max_concurrent": 10**6}
    with open_service(tmp_path_factory.mktemp("openapi"), auth=limits) as service:
        schema = schemathesis.openapi.from_asgi("/openapi.json", service.app, headers=HEADERS)
        yield schema, HEADERS | service.key("ops", is_admin=True)


def check_all(described, max_examples: int) -> None:
    schema, headers = described
    for found in schema.get_all_operations():

        @given(case=found.ok().as_strategy())
        @settings(
            max_examples=max_examples,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        def keeps_to_its_description(case):
            case.call_and_validate(headers=headers, excluded_checks=UNSAYABLE)

        keeps_to_its_description()


def test_every_route_keeps_to_its_description(described):
    check_all(described, 2)


@pytest.mark.slow
def test_every_route_keeps_to_its_description_whatever_is_sent(described):
    check_all(described, 40)


def test_fields_are_described_by_their_docstrings(tmp_path):
    with open_service(tmp_path) as service:
        first, second = service.app.openapi(), service.app.openapi()
    fields = first["components"]["schemas"]["Opened"]["properties"]
    assert fields["ref"]["description"] == "The caller's own id of the request."
    assert first["components"]["schemas"]["OpenStream"]["properties"]["policy"]["description"].startswith("Name of a")
    assert not any("422" in operation["responses"] for path in second["paths"].values() for operation in path.values())
