"""Conversation format of the embedded base, which is a model that follows instructions."""

# ChatML as SmolLM2 was trained on it; the words of the system turn are those of its makers' template.
CHAT_TEMPLATE = """\
{%- if not messages or messages[0].role != 'system' -%}
<|im_start|>system
You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>
{% endif -%}
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""
END_TOKENS = ("<|im_end|>", "<|endoftext|>")
