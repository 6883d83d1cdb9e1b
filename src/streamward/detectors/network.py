"""IP addresses, and user names with passwords in URLs."""

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from streamward.detectors.scanning import PatternScanner, ScanHit, pattern_scanner

_IPV4 = r"(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)"
_IPV6 = r"(?:[0-9A-Fa-f]{0,4}:){2,8}(?:[0-9A-Fa-f]{1,4}|(?:\d{1,3}\.){3}\d{1,3})?(?![\w:]|\.\d)"
_IP = rf"(?<![\w.:])(?:{_IPV4}|{_IPV6})"
_URL = (
    r"(?<![A-Za-z0-9+.-])[A-Za-z][A-Za-z0-9+.-]{1,20}://"
    r"[^\s/?#@:\"'<>`\\]{0,256}:[^\s/?#@\"'<>`\\]{1,256}@(?=[^\s])"
)


def ip_scanner() -> PatternScanner:
    """Find IPv4 and IPv6 addresses as `ipaddress` reads them; not the unspecified
    and loopback ones, and no net masks.

    At most 57 characters are held back, from the first digit or colon of a word on.
    """
    return pattern_scanner(_IP, _check_ip)


def _check_ip(buffer: str, start: int, end: int) -> ScanHit | None:
    if buffer[end - 1] == ":" and buffer[end - 2] != ":":  # punctuation that ends the sentence
        end -= 1
    text = buffer[start:end]
    try:
        address = IPv6Address(text) if ":" in text else IPv4Address(text)
    except AddressValueError:
        return None
    if address.is_unspecified or address.is_loopback or text.startswith("255."):
        return None
    if ":" in text and not any(char.isdigit() for char in text):  # names of programs: `dead::beef`
        return None
    return ScanHit(start, end)


def url_credentials_scanner() -> PatternScanner:
    """Find the user and password of `scheme://user:password@host`.

    At most 538 characters are held back: from the scheme on, until the host has begun.
    """
    return pattern_scanner(_URL, _check_url)


def _check_url(buffer: str, start: int, end: int) -> ScanHit | None:
    first = buffer.index("://", start) + 3
    return ScanHit(first, end - 1) if _PLACEHOLDER.fullmatch(buffer, first, end - 1) is None else None


_PLACEHOLDER = re.compile(
    r"(?:<?\$?\{?(?:user(?:name)?|login)\}?>?)?:(?:<?\$?\{?(?:pass(?:word)?|pwd)\}?>?|\*+|x+|\.+)", re.IGNORECASE
)
