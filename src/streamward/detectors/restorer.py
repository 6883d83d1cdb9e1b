"""Puts originals back in place of numbered placeholders, in a text that grows."""

import json

from streamward.detectors.vault import Vault


class Restorer:
    """Restores one text. A placeholder that is cut over pieces is held back, up to its length."""

    def __init__(self, vault: Vault, *, is_json: bool = False) -> None:
        """Restore the placeholders of a conversation.

        Args:
            vault: Has them; ones it gets later are restored too.
            is_json: Whether the text is JSON source, in which originals are written as parts of strings.
        """
        self._vault = vault
        self._is_json = is_json
        self._held = ""

    def feed(self, text: str) -> str:
        """Take in what comes next and return what is decided."""
        self._held += text
        return self._release(is_end=False)

    def finish(self) -> str:
        """Return the rest: nothing follows."""
        return self._release(is_end=True)

    def _release(self, *, is_end: bool) -> str:
        out: list[str] = []
        text, at = self._held, 0
        while (start := text.find("[", at)) >= 0:
            out.append(text[at:start])
            end = text.find("]", start) + 1
            original = self._vault.originals.get(text[start:end]) if end else None
            if original is not None:
                out.append(json.dumps(original, ensure_ascii=False)[1:-1] if self._is_json else original)
                at = end
            elif not end and not is_end and self._may_become_one(text[start:]):
                self._held = text[start:]
                return "".join(out)
            else:
                out.append("[")
                at = start + 1
        self._held = ""
        return "".join([*out, text[at:]])

    def _may_become_one(self, text: str) -> bool:
        return any(placeholder.startswith(text) for placeholder in self._vault.originals)


def restore(vault: Vault, text: str, *, is_json: bool = False) -> str:
    """Put originals back in a whole text."""
    restorer = Restorer(vault, is_json=is_json)
    return restorer.feed(text) + restorer.finish()
