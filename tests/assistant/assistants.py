"""A tiny assistant with random weights."""

from streamward.assistant.config import AssistantConfig
from streamward.assistant.writer import Assistant
from tests.generative.gen_guards import random_lm
from tests.moderation.guards import guard_tokenizer

NUM_TEXT_TOKENS = 264  # of the byte tokenizer; the model has more, as many models do


def tiny_assistant(**limits) -> Assistant:
    """At temperature 0 its answers never end by themselves. `limits` are those of `AssistantConfig`."""
    config = AssistantConfig(**{"max_context_tokens": 256, **limits})
    model = random_lm(0)
    model.lm_head.get_parameter("weight").data[NUM_TEXT_TOKENS:] = 0.0
    return Assistant(model, guard_tokenizer(), end_ids=range(NUM_TEXT_TOKENS, 288), config=config)
