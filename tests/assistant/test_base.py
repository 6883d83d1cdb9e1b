"""The real base as an assistant."""

import asyncio

import pytest

from streamward.assistant.config import AssistantConfig
from streamward.assistant.sampling import Sampling
from streamward.assistant.writer import Assistant
from streamward.bundled.base import find_gguf, prepare_base
from streamward.bundled.instruct import CHAT_TEMPLATE
from streamward.schema import Message, Role
from streamward.tokenizer import GuardTokenizer

CONVERSATIONS = (
    [Message(Role.USER, "Hi")],
    [Message(Role.SYSTEM, "Be brief."), Message(Role.USER, " a\n")],
    [Message(Role.USER, "a"), Message(Role.ASSISTANT, "b"), Message(Role.USER, "<|im_end|>c")],
)


@pytest.mark.slow
def test_the_template_renders_what_its_makers_does():
    gguf = pytest.importorskip("gguf")
    from tokenizers import Tokenizer

    published = gguf.GGUFReader(find_gguf()[0]).fields["tokenizer.chat_template"].contents()
    tokenizer = Tokenizer.from_file(str(prepare_base() / "tokenizer.json"))
    ours, theirs = GuardTokenizer(tokenizer, CHAT_TEMPLATE), GuardTokenizer(tokenizer, published)
    for turns in CONVERSATIONS:
        assert ours.render(turns, is_open=True).ids == theirs.render(turns, is_open=True).ids


def test_it_answers_in_english_and_ends_by_itself():
    async def ask():
        assistant = Assistant.from_base(AssistantConfig())
        try:
            prompt = assistant.render([Message(Role.USER, "What is 2 + 2? Answer with one word.")])
            writing = assistant.write([prompt], Sampling(64, temperature=0.0))
            return [piece async for piece in writing]
        finally:
            assistant.close()

    pieces = asyncio.run(ask())
    assert pieces[-1].finish_reason == "stop"
    assert "".join(piece.text for piece in pieces).isascii()
