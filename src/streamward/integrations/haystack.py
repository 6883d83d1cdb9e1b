"""Haystack: a component that lets answers through or stops them, and a streaming callback that releases judged text."""

from typing import Any

from haystack import component
from haystack.dataclasses import ChatMessage

from streamward import Client, Moderator


@component
class ReplyGuard:
    """Judges a prompt and the replies to it; connects behind a chat generator."""

    def __init__(self, guard: Moderator | Client) -> None:
        """Judge with a guard, from `streamward.load` or `streamward.connect`; close it yourself."""
        self.guard = guard

    @component.output_types(replies=list[ChatMessage], blocked=list[dict[str, Any]])
    def run(self, replies: list[ChatMessage], prompt: str | None = None) -> dict[str, Any]:
        """Judge replies.

        Args:
            replies: Replies of a chat generator.
            prompt: The user's text.

        Returns:
            `replies` that the policy allows, and the policy's message instead of those that it replaces; `blocked` has
            action, risk level and category of the others.
        """
        passed, blocked = [], []
        for reply in replies:
            decision = self.guard.moderate(prompt, messages=None, response=reply.text or "").decision
            if not decision.is_blocked:
                passed.append(reply)
            elif decision.message is not None:
                passed.append(ChatMessage.from_assistant(decision.message))
            else:
                names = ("action", "side", "risk_level", "category", "error")
                blocked.append({name: getattr(decision, name) for name in names})
        return {"replies": passed, "blocked": blocked}
