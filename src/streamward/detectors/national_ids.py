"""National identity, tax and social security numbers of persons, by country."""

import re
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NamedTuple

from streamward.detectors.context import ContextWords
from streamward.detectors.extras import import_extra
from streamward.detectors.scanning import PatternScanner, ScanHit, pattern_scanner

_NINO = r"(?!BG|GB|NK|KN|TN|NT|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d{2} ?\d{2} ?\d{2} ?[A-D]"
_CODICE_FISCALE = r"(?i:[A-Z]{6}[0-9LMNP-V]{2}[A-EHLMPRST][0-9LMNP-V]{2}[A-Z][0-9LMNP-V]{3}[A-Z])"
_TAX = ("tax id", "tax number", "tax no", "taxpayer", "tin", "tax identification", "tax file")
_ID = ("national id", "id number", "id no", "identity number", "identity card", "personal number", "personal id")


class NationalIdFormat(NamedTuple):
    """The written form of the numbers of one kind.

    Attributes:
        country: ISO 3166 code, lower case.
        module: Module of `python-stdnum`, which has the check digits; empty where the number has none.
        pattern: What is looked for.
        words: Words of which one must stand before it, because the format says too little; empty: none.
    """

    country: str
    module: str
    pattern: str
    words: tuple[str, ...] = ()


_FORMATS: Sequence[NationalIdFormat] = (
    NationalIdFormat("ar", "ar.cuit", r"(?:20|23|24|25|26|27)-\d{8}-\d"),
    NationalIdFormat("at", "at.vnr", r"\d{4} ?\d{6}", ("sozialversicherungsnummer", "svnr", "sv-nummer", "vsnr")),
    NationalIdFormat("au", "au.tfn", r"\d{3} ?\d{3} ?\d{2,3}", ("tfn", *_TAX)),
    NationalIdFormat("be", "be.nn", r"\d{2}\.\d{2}\.\d{2}-\d{3}\.\d{2}"),
    NationalIdFormat("be", "be.nn", r"\d{11}", ("rijksregister", "registre national", "insz", "niss", *_ID)),
    NationalIdFormat("bg", "bg.egn", r"\d{10}", ("егн", "egn", *_ID)),
    NationalIdFormat("br", "br.cpf", r"\d{3}\.\d{3}\.\d{3}-\d{2}"),
    NationalIdFormat("br", "br.cpf", r"\d{9}-?\d{2}", ("cpf",)),
    NationalIdFormat("ca", "ca.sin", r"\d{3}[ -]\d{3}[ -]\d{3}"),
    NationalIdFormat("ca", "ca.sin", r"\d{9}", ("sin", "social insurance", "nas")),
    NationalIdFormat("ch", "ch.ssn", r"756\.?\d{4}\.?\d{4}\.?\d{2}"),
    NationalIdFormat("cl", "cl.rut", r"\d{1,2}\.\d{3}\.\d{3}-[\dKk]"),
    NationalIdFormat("cl", "cl.rut", r"\d{7,8}-[\dKk]", ("rut", "run")),
    NationalIdFormat("cn", "cn.ric", r"\d{17}[\dXx]"),
    NationalIdFormat("cz", "cz.rc", r"\d{6}/\d{3,4}"),
    NationalIdFormat("de", "de.idnr", r"\d{2} \d{3} \d{3} \d{3}"),
    NationalIdFormat("de", "de.idnr", r"\d{11}", ("steuer-id", "steueridentifikation", "idnr", "steuer id", *_TAX)),
    NationalIdFormat("dk", "dk.cpr", r"\d{6}-\d{4}"),
    NationalIdFormat("ec", "ec.ci", r"\d{10}", ("cédula", "cedula")),
    NationalIdFormat("ee", "ee.ik", r"[1-8]\d{10}", ("isikukood", *_ID)),
    NationalIdFormat("es", "es.dni", r"\d{8}[ -]?[A-Za-z]"),
    NationalIdFormat("es", "es.nie", r"[XYZxyz][ -]?\d{7}[ -]?[A-Za-z]"),
    NationalIdFormat("fi", "fi.hetu", r"\d{6}[-+A-FU-Y]\d{3}[\dA-Y]"),
    NationalIdFormat("fr", "fr.nir", r"[12] ?\d{2} ?\d{2} ?\d[\dABab] ?\d{3} ?\d{3} ?\d{2}"),
    NationalIdFormat("fr", "fr.nif", r"[0-3]\d(?: ?\d{2})(?: ?\d{3}){3}", ("numéro fiscal", "spi", *_TAX)),
    NationalIdFormat("gb", "", _NINO),
    NationalIdFormat("gb", "gb.nhs", r"\d{3}[ -]?\d{3}[ -]?\d{4}", ("nhs",)),
    NationalIdFormat("gb", "gb.utr", r"\d{10}", ("utr", "unique taxpayer")),
    NationalIdFormat("gr", "gr.amka", r"\d{11}", ("amka", "αμκα")),
    NationalIdFormat("hr", "hr.oib", r"\d{11}", ("oib",)),
    NationalIdFormat("id", "id.nik", r"\d{16}", ("nik", "ktp")),
    NationalIdFormat("ie", "ie.pps", r"\d{7}[A-W][ABHWTX]?"),
    NationalIdFormat("il", "il.idnr", r"\d{8}-?\d", ("teudat", "ת.ז", "תעודת זהות", "מספר זהות", *_ID)),
    NationalIdFormat("in", "in_.aadhaar", r"\d{4}[ -]\d{4}[ -]\d{4}(?![ -]?\d)"),
    NationalIdFormat("in", "in_.aadhaar", r"\d{12}", ("aadhaar", "aadhar", "आधार", "uid")),
    NationalIdFormat("in", "in_.pan", r"[A-Z]{3}[ABCFGHJLPT][A-Z]\d{4}[A-Z]"),
    NationalIdFormat("is", "is_.kennitala", r"\d{6}-?\d{4}", ("kennitala", "kt")),
    NationalIdFormat("it", "it.codicefiscale", _CODICE_FISCALE),
    NationalIdFormat("jp", "jp.in_", r"\d{4}[ -]?\d{4}[ -]?\d{4}", ("my number", "マイナンバー", "個人番号")),
    NationalIdFormat("kr", "kr.rrn", r"\d{6}-[1-8]\d{6}"),
    NationalIdFormat("kr", "kr.rrn", r"\d{6}[1-8]\d{6}", ("주민등록", "rrn", "resident registration")),
    NationalIdFormat("lt", "lt.asmens", r"[3-6]\d{10}", ("asmens kod", *_ID)),
    NationalIdFormat("lv", "lv.pvn", r"\d{6}-\d{5}", ("personas kod",)),
    NationalIdFormat("mx", "mx.curp", r"[A-Z]{4}\d{6}[HMX][A-Z]{5}[0-9A-Z]\d"),
    NationalIdFormat("mx", "mx.rfc", r"[A-ZÑ&]{4}\d{6}[0-9A-Z]{3}"),
    NationalIdFormat("my", "my.nric", r"\d{6}-\d{2}-\d{4}"),
    NationalIdFormat("nl", "nl.bsn", r"\d{9}|\d{4}\.\d{2}\.\d{3}", ("bsn", "burgerservicenummer", "sofinummer")),
    NationalIdFormat("no", "no.fodselsnummer", r"\d{6} ?\d{5}", ("fødselsnummer", "fodselsnummer", "fnr", *_ID)),
    NationalIdFormat("pk", "pk.cnic", r"\d{5}-\d{7}-\d"),
    NationalIdFormat("pl", "pl.pesel", r"\d{11}", ("pesel",)),
    NationalIdFormat("pt", "pt.nif", r"\d{3} ?\d{3} ?\d{3}", ("nif", "contribuinte")),
    NationalIdFormat("pt", "pt.cc", r"\d{8} ?\d ?[A-Z0-9]{2}\d"),
    NationalIdFormat("ro", "ro.cnp", r"[1-9]\d{12}", ("cnp", "cod numeric", *_ID)),
    NationalIdFormat("ru", "ru.inn", r"\d{12}", ("инн", "inn")),
    NationalIdFormat("se", "se.personnummer", r"(?:\d{2})?\d{6}[-+]\d{4}"),
    NationalIdFormat("se", "se.personnummer", r"\d{12}", ("personnummer",)),
    NationalIdFormat("si", "si.emso", r"\d{13}", ("emšo", "emso")),
    NationalIdFormat("th", "th.pin", r"\d-\d{4}-\d{5}-\d{2}-\d"),
    NationalIdFormat("th", "th.pin", r"\d{13}", ("บัตรประชาชน", "เลขประจำตัวประชาชน", "thai id", *_ID)),
    NationalIdFormat("tr", "tr.tckimlik", r"[1-9]\d{10}", ("tc kimlik", "tckn", "kimlik no", "kimlik", "t.c.")),
    NationalIdFormat("tw", "", r"[A-Z][12]\d{8}", ("身分證", "身份證", *_ID)),
    NationalIdFormat("ua", "ua.rntrc", r"\d{10}", ("іпн", "рнокпп", "ідентифікаційний")),
    NationalIdFormat("us", "us.ssn", r"\d{3}-\d{2}-\d{4}"),
    NationalIdFormat("us", "us.ssn", r"\d{3}[ .]?\d{2}[ .]?\d{4}", ("ssn", "social security", "soc sec")),
    NationalIdFormat("us", "us.itin", r"9\d{2}-\d{2}-\d{4}"),
    NationalIdFormat("za", "za.idnr", r"\d{6} ?\d{4} ?\d{3}", ("sa id", "rsa id", "south african", *_ID)),
)  # fmt: skip

COUNTRIES = tuple(sorted({each.country for each in _FORMATS}))
"""Codes of the countries whose numbers are known."""

_BEFORE = r"(?<![\w/])(?<!\w[-.])"
_AFTER = r"(?!\w|[-./]\d)"


def national_id_scanner(countries: Sequence[str]) -> PatternScanner:
    """Find identity, tax and social security numbers of persons, with the check digits that each has.

    Where the format alone says too little, as with eleven digits in a row, a word such as `PESEL` must stand within
    64 characters before. At most 24 characters are held back, from the first character of a number on.

    Args:
        countries: ISO 3166 codes, of `COUNTRIES`.

    Raises:
        ConfigError: The package is not installed.
    """
    import_extra("stdnum", what="the detector national_id")
    formats = [each for each in _FORMATS if each.country in countries]
    candidates = "|".join(dict.fromkeys(each.pattern for each in formats))
    known = [_Format(each) for each in formats]

    def check(buffer: str, start: int, end: int) -> ScanHit | None:
        ends = (stop for each in known if (stop := each.end(buffer, start)) is not None)
        stop = max(ends, default=None)
        return None if stop is None else ScanHit(start, stop)

    return pattern_scanner(f"{_BEFORE}(?:{candidates}){_AFTER}", check)


class _Format:
    """One format, ready to be looked for."""

    def __init__(self, source: NationalIdFormat) -> None:
        self._pattern = re.compile(f"{_BEFORE}(?:{source.pattern}){_AFTER}")
        self._words = ContextWords(*source.words) if source.words else None
        self._is_valid: Callable[[str], bool] | None = None
        if source.module:
            self._is_valid = import_module(f"stdnum.{source.module}").is_valid

    def end(self, buffer: str, start: int) -> int | None:
        found = self._pattern.match(buffer, start)
        if found is None or (self._is_valid is not None and not self._is_valid(found[0])):
            return None
        if self._words is not None and not self._words.stand_before(buffer, start):
            return None
        return found.end()
