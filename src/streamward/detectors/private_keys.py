"""Private keys in PEM and OpenPGP armor (RFC 7468, RFC 9580 section 6)."""

import re

from streamward.detectors.scanning import ScanHit, ScanStep

_BEGIN = "-----BEGIN "
_KIND = r"(?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
_BREAK = r"(?:\\[nrt]|\s){1,12}"
_FIELD = r"[A-Z][A-Za-z-]{3,20}: [^\r\n\\]{1,80}"
_MAX_CHARS = 16384
_HEADER = re.compile(f"{_BEGIN}{_KIND}")
_HEADER_PREFIX = re.compile(f"{_BEGIN}[A-Z0-9 ]{{0,60}}-{{0,5}}")
_BODY = re.compile(rf"(?:{_BREAK}(?:[A-Za-z0-9+/=]{{16,}}|{_FIELD}))*")
_CLOSE = re.compile(rf"(?:{_BREAK}=?[A-Za-z0-9+/=]{{1,15}}){{0,2}}(?:{_BREAK})?-----END {_KIND}")
_CLOSE_PREFIX = re.compile(
    rf"\\?(?:{_BREAK}=?[A-Za-z0-9+/=]{{0,15}}){{0,2}}(?:(?:{_BREAK})?(?:-{{0,5}}|-----[END]{{0,3}}"
    r"|-----END [A-Z0-9 ]{0,60}-{0,5}))?\\?"
    rf"|{_BREAK}[A-Z][A-Za-z-]{{0,20}}(?::(?: [^\r\n\\]{{0,80}})?)?"
)
_CUT_OFF = re.compile(rf"{_BREAK}[A-Za-z0-9+/=]{{1,15}}")


class PrivateKeyScanner:
    """Find private keys from their BEGIN line to their END line, line ends written as `\\n` included.

    Of a key without an END line the lines of base64 are found that follow. At most 16,384 characters are held back,
    from the BEGIN line on; in text without keys, hyphens at the end.
    """

    max_chars = _MAX_CHARS

    def scan(self, buffer: str, start: int, *, is_end: bool) -> ScanStep:
        """Report the keys from a place on; see `Scanner`."""
        hits: list[ScanHit] = []
        while (first := buffer.find(_BEGIN, start)) >= 0:
            window = buffer[first : first + _MAX_CHARS]
            found = _key_end(window, is_end=is_end or len(window) == _MAX_CHARS)
            if found is None:
                return ScanStep(hits, first)
            if found:
                hits.append(ScanHit(first, first + found))
            start = first + (found or 1)
        return ScanStep(hits, len(buffer) if is_end else max(start, _open_marker(buffer)))


def _open_marker(buffer: str) -> int:
    """Return where a BEGIN line begins that the end of the buffer cuts off."""
    for size in range(min(len(_BEGIN) - 1, len(buffer)), 0, -1):
        if buffer.endswith(_BEGIN[:size]):
            return len(buffer) - size
    return len(buffer)


def _key_end(window: str, *, is_end: bool) -> int | None:
    """Return where the key ends that a text begins with; 0 if there is none, None if that is not known yet."""
    header = _HEADER.match(window)
    if header is None:
        return None if not is_end and _HEADER_PREFIX.fullmatch(window) else 0
    body = _BODY.match(window, header.end())
    assert body is not None, "it may be empty"
    closing = _CLOSE.match(window, body.end())
    if closing is not None:
        return closing.end()
    if _CLOSE_PREFIX.fullmatch(window, body.end()) and not is_end:
        return None
    if body.end() == header.end():
        return 0
    cut_off = _CUT_OFF.fullmatch(window, body.end()) if is_end else None
    return body.end() if cut_off is None else cut_off.end()
