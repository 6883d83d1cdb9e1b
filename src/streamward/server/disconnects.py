"""Work for a client that has left is ended, and work that a stop cut short is answered."""

import asyncio

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streamward.errors import OverloadedError
from streamward.server.errors import error_response

_CLIENT_LEFT = 499  # nobody receives this status; it is for logs and metrics


class CancelOnDisconnect:
    """Cancels a handler whose client leaves before the answer has begun, unless it listens for that itself.

    Frameworks cancel streaming answers only; a handler that judges a text would go on for nobody. A handler that is
    cancelled because the service stops is answered as overloaded.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client = _Client(receive, send)
        working = asyncio.ensure_future(self._app(scope, client.receive, client.send))
        client.working = working
        try:
            await working
        except asyncio.CancelledError:
            if client.was_cancelled:
                await Response(status_code=_CLIENT_LEFT)(scope, receive, send)
            elif scope["app"].state.service.admission.is_draining and not client.has_begun:
                error = OverloadedError("the service is stopping; try another one")
                await error_response(error)(scope, receive, send)
            else:
                raise
        finally:
            working.cancel()
            client.stop()


class _Client:
    """State of a client: whether its body has arrived, its answer has begun, and it has disconnected."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self.working: asyncio.Future[None] | None = None
        self.was_cancelled = False
        self._receive = receive
        self._send = send
        self.has_begun = False
        self._num_listening = 0
        self._leaving: asyncio.Task[Message] | None = None

    async def receive(self) -> Message:
        """Give the handler what the client sends, then wait until it leaves."""
        if self._leaving is None:
            message = await self._receive()
            if message["type"] == "http.request" and not message.get("more_body"):
                self._leaving = asyncio.create_task(self._leave())
            return message
        self._num_listening += 1
        try:
            return await asyncio.shield(self._leaving)
        finally:
            self._num_listening -= 1

    async def send(self, message: Message) -> None:
        """Pass on what the handler answers."""
        self.has_begun = True
        await self._send(message)

    def stop(self) -> None:
        """Listen no more."""
        if self._leaving is not None:
            self._leaving.cancel()

    async def _leave(self) -> Message:
        while (message := await self._receive())["type"] != "http.disconnect":
            pass
        if not self._num_listening and not self.has_begun and self.working is not None:
            self.was_cancelled = True
            self.working.cancel()
        return message
