"""An upstream that asks another one each question once, and repeats its answers from then on."""

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from streamward.errors import UpstreamError

_TIMEOUT_S = 600.0


class RecordedUpstream:
    """Answers chat completions as streams. The same request gets the same answer, also in a later run."""

    def __init__(self, base_url: str, store: Path) -> None:
        """Take up what a former run recorded.

        Args:
            base_url: Base URL of the upstream behind it, up to `/v1`.
            store: File with the answers, one per line.
        """
        self.num_calls: Counter[str] = Counter()
        """Requests by their `user`."""
        self._base_url = base_url
        self._store = store
        self._events: dict[str, list[str]] = {}
        self._asking: dict[str, asyncio.Future[list[str]]] = {}
        self._client = httpx.AsyncClient(timeout=_TIMEOUT_S, trust_env=False)
        if store.exists():
            for line in store.read_text(encoding="utf-8").splitlines():
                record = json.loads(line)
                self._events[record["key"]] = record["events"]

    @asynccontextmanager
    async def serving(self, port: int) -> AsyncIterator[str]:
        """Listen on loopback; gives the address up to `/v1`."""
        config = uvicorn.Config(self._app(), host="127.0.0.1", port=port, log_config=None, access_log=False)
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve())
        try:
            while not server.started:
                await asyncio.sleep(0.05)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.should_exit = True
            await task
            await self._client.aclose()

    def _app(self) -> FastAPI:
        app = FastAPI()

        @app.post("/v1/chat/completions")
        async def answer(request: Request) -> StreamingResponse:
            body = await request.json()
            self.num_calls[str(body.pop("user", ""))] += 1
            return StreamingResponse(_repeat(await self._answer(body)), media_type="text/event-stream")

        return app

    async def _answer(self, body: dict[str, Any]) -> list[str]:  # Any: JSON values
        key = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        if key in self._events:
            return self._events[key]
        if key not in self._asking:  # whoever asked may go: the answer is for all who come after
            self._asking[key] = asyncio.ensure_future(self._ask(key, body))
        return await asyncio.shield(self._asking[key])

    async def _ask(self, key: str, body: dict[str, Any]) -> list[str]:  # Any: JSON values
        events = []
        async with self._client.stream("POST", f"{self._base_url}/chat/completions", json=body) as response:
            if response.status_code != 200:
                raise UpstreamError(f"the assistant answered with status {response.status_code}")
            async for line in response.aiter_lines():
                if line:
                    events.append(line)
        self._events[key] = events
        with self._store.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "events": events}) + "\n")
        return events


async def _repeat(events: list[str]) -> AsyncIterator[str]:
    for event in events:
        yield event + "\n\n"
        await asyncio.sleep(0)
