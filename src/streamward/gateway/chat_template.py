"""Chat templates that are rendered here, for upstreams that continue plain text only."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from jinja2 import TemplateError

from streamward.errors import CheckpointError, ConfigError, InputError
from streamward.gateway.strict_json import JsonObject
from streamward.tokenizer import compile_template


def read_chat_template(path: Path) -> Callable[[Sequence[JsonObject]], str]:
    """Return what writes messages in a template's words, up to where the assistant's answer begins.

    Args:
        path: A Jinja template in Hugging Face's dialect, or a `tokenizer_config.json` with `chat_template`.

    Raises:
        ConfigError: It cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
        settings = json.loads(text) if path.suffix == ".json" else {"chat_template": text}
        template = compile_template(settings["chat_template"])
    except (OSError, ValueError, KeyError, TypeError, CheckpointError) as error:
        raise ConfigError(f"chat_template {str(path)!r} cannot be read as a chat template") from error
    words = {name: _token(settings.get(name)) for name in ("bos_token", "eos_token")}

    def render(messages: Sequence[JsonObject]) -> str:
        try:
            return template.render(messages=list(messages), add_generation_prompt=True, tools=None, **words)
        except (TemplateError, TypeError, ValueError) as error:
            raise InputError("the upstream's chat template refuses this conversation") from error

    return render


def _token(value: object) -> str:
    """Return a special token, which settings give as a string or as an object."""
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else ""
