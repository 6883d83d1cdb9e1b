"""E-mail addresses and phone numbers."""

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from streamward.detectors.context import ContextWords
from streamward.detectors.extras import import_extra
from streamward.detectors.scanning import Check, PatternScanner, ScanHit, pattern_scanner

_LOCAL = r"[A-Za-z0-9\u00c0-\u024f](?:[A-Za-z0-9\u00c0-\u024f._%+~&-]{0,63})"
_LABEL = r"[A-Za-z0-9\u00c0-\u024f](?:[A-Za-z0-9\u00c0-\u024f-]{0,62})"
_EMAIL = (
    rf"(?<![A-Za-z0-9\u00c0-\u024f]){_LOCAL}(?:@|%40|&#64;){_LABEL}(?:\.{_LABEL}){{0,6}}\.(?:[A-Za-z]{{2,24}}|xn--[A-Za-z0-9-]{{2,59}})"
    r"(?![A-Za-z0-9])"
)

_PHONE_WORDS = ContextWords(
    "phone", "telephone", "tel", "mobile", "mob", "cell", "cellphone", "fax", "call", "whatsapp", "sms", "text me",
    "telefon", "telefonnummer", "handy", "handynummer", "rufnummer", "anrufen", "mobil", "téléphone", "portable",
    "teléfono", "telefono", "móvil", "cellulare", "chiamare", "celular", "telefone", "telemóvel", "telefoon",
    "mobiel", "puhelin", "puh", "tlf", "тел", "телефон", "电话", "手机", "電話", "携帯", "전화", "휴대폰",
    "फ़ोन", "फोन", "هاتف", "تلفون", "جوال", "komórka", "numer telefonu", "numara", "cep",
)  # fmt: skip
_PHONE = r"(?<![\w.,$€£/-])(?:\+|\uff0b|\()?\(?\+?\d(?:[ \u00a0\u2009\u2010-\u2013().\-/]{0,3}\d){5,17}(?![\d\w])"


def email_scanner() -> PatternScanner:
    """Find e-mail addresses: a local part of at most 64 characters, a domain of at most 8 labels.

    Letters of the Latin script with diacritics count, as do `%40` and `&#64;` for the sign between. At most 600
    characters are held back; in prose, the last word.
    """
    return pattern_scanner(_EMAIL)


def phone_scanner(regions: Sequence[str]) -> PatternScanner:
    """Find phone numbers that are valid by the numbering plans of `phonenumbers` (Google's libphonenumber).

    International numbers are found everywhere. A national number is found if it is valid in one of the regions and
    either is grouped as that country groups it, or a word such as `tel` or `call` stands before it. At most 78
    characters are held back, from the first digit of a run of digits on.

    Args:
        regions: ISO 3166 codes of the countries whose national numbers are meant.

    Raises:
        ConfigError: The package is not installed.
    """
    import_extra("phonenumbers", what="the detector phone")
    return pattern_scanner(_PHONE, _phone_check(tuple(regions)))


@cache
def _phone_check(regions: tuple[str, ...]) -> Check:
    import phonenumbers
    from phonenumbers import Leniency, PhoneNumberMatcher

    def valid_end(text: str, region: str | None, leniency: Any) -> int | None:  # Any: constants without types
        for found in PhoneNumberMatcher(text, region, leniency=leniency, max_tries=8):
            if not text[: found.start].strip("(+\uff0b"):
                return int(found.end)
            return None
        return None

    def check(buffer: str, start: int, end: int) -> ScanHit | None:
        text = buffer[start:end]
        if "+" in text[:3] or "\uff0b" in text[:3]:
            found = valid_end(text, None, Leniency.VALID)
            return None if found is None else ScanHit(start, start + found)
        if text.startswith("00"):
            found = valid_end("+" + text[2:], None, Leniency.VALID)
            return None if found is None else ScanHit(start, start + found + 1)
        if _NO_PHONE.fullmatch(text):
            return None
        is_named = _PHONE_WORDS.stand_before(buffer, start)
        is_plain = text.isdigit()
        for region in regions:
            if is_named:
                found = valid_end(text, region, Leniency.VALID)
            elif is_plain:
                continue
            else:
                found = valid_end(text, region, Leniency.EXACT_GROUPING)
            if found is not None:
                return ScanHit(start, start + found)
        return None

    assert phonenumbers.SUPPORTED_REGIONS.issuperset(regions), "regions are checked in the configuration"
    return check


_NO_PHONE = re.compile(  # dates, periods, decimal fractions
    r"(?:\d+\.\d+|\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}|\d{4} ?[-\u2013] ?\d{4})"
)
