"""Payment card numbers and IBANs."""

import re
from functools import cache

from streamward.detectors.context import ContextWords
from streamward.detectors.extras import import_extra
from streamward.detectors.scanning import PatternScanner, ScanHit, pattern_scanner

_SEPARATOR = r"[ \u00a0\u2009\u202f\-\u2010-\u2013.]"
_CARD = rf"(?<![\w.])(?<!\d[-,/])\d(?:{_SEPARATOR}?\d){{11,18}}(?!{_SEPARATOR}?\d{{5}})(?!\w)"
_CARD_WORDS = ContextWords(
    "card", "credit", "debit", "visa", "mastercard", "amex", "american express", "maestro", "discover", "karte",
    "kreditkarte", "carte", "tarjeta", "carta", "cartão", "kaart", "kort", "karta", "kart", "карта",
    "卡", "カード", "카드",
)  # fmt: skip
_ISSUERS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})"  # Visa
    r"|(?:5[1-5]\d{2}|222[1-9]|22[3-9]\d|2[3-6]\d{2}|27[01]\d|2720)\d{12}"  # Mastercard
    r"|3[47]\d{13}"  # American Express
    r"|(?:30[0-5]|309|36\d|3[89]\d)\d{11}"  # Diners Club
    r"|(?:6011|64[4-9]\d|65\d{2})\d{12}"  # Discover
    r"|35(?:2[89]|[3-8]\d)\d{12}"  # JCB
    r"|62\d{14,17}"  # UnionPay
    r"|(?:5018|5020|5038|5893|6304|6759|676[1-3])\d{8,15}"  # Maestro
    r"|(?:60|65|81|82|508)\d{13,14}"  # RuPay
    r"|220[0-4]\d{12,15}"  # Mir
    r"|9792\d{12}"  # Troy
    r"|(?:4011|4312|4389|4514|4576|5041|5067|5090|6277|6362|6363|6504|6505|6516|6550)\d{12}"  # Elo
)


def luhn_is_valid(digits: str) -> bool:
    """Return whether a string of ASCII digits has the check digit of ISO/IEC 7812-1, annex B."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def card_scanner() -> PatternScanner:
    """Find payment card numbers: number of digits and first digits of a known issuer, and the check digit.

    Groups may be kept apart by one space, hyphen or dot. At most 48 characters are held back, from the first digit on.
    """
    return pattern_scanner(_CARD, _check_card)


def _check_card(buffer: str, start: int, end: int) -> ScanHit | None:
    text = buffer[start:end]
    ends = [end] + [start + found.start() for found in reversed(list(_GAP.finditer(text)))]
    for stop in ends:
        written = buffer[start:stop]
        digits = _digits(written)
        if len(digits) < 12:
            return None
        if _ISSUERS.fullmatch(digits) and luhn_is_valid(digits) and _is_grouped(written, buffer, start):
            return ScanHit(start, stop)
    return None


_GAP = re.compile(r"[^\w]")


def _is_grouped(written: str, buffer: str, start: int) -> bool:
    """Return whether the groups are those of a card; any others need a word that says so."""
    groups = tuple(map(len, _GAP.split(written)))
    if len(groups) == 1 or (groups[0] == 4 and all(size in (3, 4, 5, 6, 7) for size in groups[1:])):
        return True
    return _CARD_WORDS.stand_before(buffer, start)


def _digits(text: str) -> str:
    return "".join(str(int(char)) for char in text if char.isdecimal())


_IBAN = r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?:[ \u00a0\-]?[A-Za-z0-9]){11,30}"


def iban_scanner() -> PatternScanner:
    """Find IBANs: a country's length and format by the registry in `python-stdnum`, and the remainder modulo 97.

    Groups may be kept apart by one space or hyphen. At most 65 characters are held back, from two letters with two
    digits behind them on.

    Raises:
        ConfigError: The package is not installed.
    """
    iban = import_extra("stdnum.iban", what="the detector iban")

    def check(buffer: str, start: int, end: int) -> ScanHit | None:
        size = _iban_length(buffer[start : start + 2].upper())
        if not size:
            return None
        seen, stop = 0, start
        while stop < end and seen < size:
            seen += buffer[stop].isalnum()
            stop += 1
        if seen < size or buffer[stop : stop + 1].isalnum():
            return None
        compact = "".join(char for char in buffer[start:stop] if char.isalnum())
        return ScanHit(start, stop) if iban.is_valid(compact, check_country=False) else None

    return pattern_scanner(_IBAN, check)


@cache
def _iban_length(country: str) -> int:
    """Return the number of characters of a country's IBANs: of its structure in the registry, plus four; or 0."""
    from stdnum import numdb

    facts = numdb.get("iban").info(country)[0][1]
    structure = str(facts.get("bban", ""))
    return 4 + sum(int(size) for size in re.findall(r"(\d+)!?[nac]", structure)) if structure else 0
