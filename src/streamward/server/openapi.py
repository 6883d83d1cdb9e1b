"""Completes the OpenAPI description that the framework generates."""

import sys
from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI

from streamward.server.field_docs import field_docs


def complete_openapi(app: FastAPI) -> None:
    """Describe fields by their docstrings, and take out the status that the framework adds: we answer 400 for its 422.

    Nothing happens before somebody asks for the description.
    """
    generate = app.openapi

    def completed() -> dict[str, Any]:  # Any: FastAPI's own type
        is_made = app.openapi_schema is not None
        description = generate()
        if is_made:
            return description
        for path in description["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        _add_field_docs(description["components"]["schemas"])
        return description

    app.openapi = completed  # type: ignore[method-assign]  # as FastAPI's documentation has it


def _add_field_docs(schemas: dict[str, Any]) -> None:  # Any: JSON schemas
    for kind in _own_classes():
        properties = schemas.get(kind.__name__, {}).get("properties", {})
        if properties:
            for name, text in field_docs(kind).items():
                if name in properties:
                    properties[name].setdefault("description", text)


def _own_classes() -> Iterator[type]:
    """Yield the classes of this package's modules; their names are unique."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == __name__.partition(".")[0]:
            yield from (each for each in vars(module).values() if isinstance(each, type) and each.__module__ == name)
