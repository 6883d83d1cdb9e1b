"""A tiny assistant with random weights, and a real server around it."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from streamward.assistant.app import create_app
from streamward.assistant.config import AssistantConfig
from streamward.assistant.writer import Assistant
from tests.generative.gen_guards import random_lm
from tests.moderation.guards import guard_tokenizer

NUM_TEXT_TOKENS = 264  # of the byte tokenizer; the model has more, as many models do


def tiny_assistant(**limits) -> Assistant:
    """At temperature 0 its answers never end by themselves. `limits` are those of `AssistantConfig`."""
    config = AssistantConfig(**{"max_context_tokens": 256, **limits})
    model = random_lm(0)
    model.lm_head.weight.data[NUM_TEXT_TOKENS:] = 0.0
    return Assistant(model, guard_tokenizer(), end_ids=range(NUM_TEXT_TOKENS, 288), config=config)


@contextmanager
def served(assistant: Assistant) -> Iterator[str]:
    """Serve an assistant on a free port; gives its address."""
    config = uvicorn.Config(create_app(assistant), log_config=None, timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
