"""Sentences that the product itself adds to an answer, in the language of the answer."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files

from streamward.ladder import LadderStep

_FALLBACK = "en"
_SCRIPTS: Sequence[tuple[str, str]] = (  # first match counts: Japanese text has ideographs too
    ("ja", "[\u3040-\u30ff]"),
    ("ko", "[\uac00-\ud7af\u1100-\u11ff]"),
    ("zh", "[\u4e00-\u9fff]"),
    ("th", "[\u0e00-\u0e7f]"),
    ("hi", "[\u0900-\u097f]"),
    ("fa", "[\u067e\u0686\u0698\u06af\u06cc]"),
    ("ar", "[\u0600-\u06ff]"),
    ("ru", "[\u0400-\u04ff]"),
)
_WORDS: Mapping[str, str] = {  # frequent function words that few of the other languages share
    "en": "the and of to is that for with you are this not it in on as be was have your can i",
    "es": "el los las una para con del pero como su es y que por muy",
    "fr": "le les des est une pour dans que vous et avec sur qui pas au",
    "de": "der das und ist nicht ein eine mit auf sie zu den von im f\u00fcr ich ob etwas wie auch wird",
    "pt": "os uma que para em mais n\u00e3o s\u00e3o voc\u00ea por ao das dos muito isto isso pode um algo mas",
    "it": "il gli che una sono della di anche nel pi\u00f9 con per questo",
    "nl": "het een van en dat niet voor zijn op de met aan ook",
    "pl": "nie si\u0119 jest oraz przez jak dla tego kt\u00f3ry aby czy mo\u017ce wi\u0119c co\u015b zanim dlaczego",
    "tr": "bir ve bu i\u00e7in ile \u00e7ok olarak de\u011fil gibi daha",
    "id": "yang dan untuk dengan ini itu tidak dari pada adalah",
    "vi": "l\u00e0 c\u1ee7a v\u00e0 c\u00e1c kh\u00f4ng m\u1ed9t c\u00f3 cho \u0111\u01b0\u1ee3c nh\u1eefng trong",
}
_LEAST_SHARE = 0.3  # share of the letters from which a script counts as that of the text
_SEARCHED_CHARS = 2000  # characters at the end of the text that are looked at

REWRITE_INSTRUCTION = (
    "Rewrite the passage that the user gives so that nobody could be harmed by it. Leave out whatever is harmful, keep"
    " the language, the tone and what is harmless, and answer with the rewritten passage only."
)
FRESH_START_NOTE = (
    "An earlier draft of the answer was withdrawn because a part of it could do harm. Answer the user again, as"
    " helpfully as you can without harmful content, and do not mention the draft."
)
"""Tells an upstream that cannot continue a text to begin anew."""


@cache
def own_words() -> Mapping[str, Mapping[str, str]]:
    """Return the product's sentences: for `refuse` and `introspect`, one per language."""
    return tomllib.loads((files("streamward.intervene") / "wording.toml").read_text(encoding="utf-8"))


def language_of(text: str) -> str:
    """Return the language a text ends in, as an ISO 639 code among those of `own_words`; `en` where that is unclear."""
    text = text[-_SEARCHED_CHARS:]
    num_letters = sum(map(str.isalpha, text)) or 1
    for language, letters in _SCRIPTS:
        count = len(_letters(letters).findall(text))
        if count >= _LEAST_SHARE * num_letters or (language in ("ja", "fa") and count > _LEAST_SHARE / 4 * num_letters):
            return language
    words = re.findall(r"[^\W\d_]+", text.lower())
    counts = {language: sum(word in common.split() for word in words) for language, common in _WORDS.items()}
    best = max(counts, key=lambda language: counts[language])
    return best if counts[best] > counts[_FALLBACK] else _FALLBACK


@cache
def _letters(letters: str) -> re.Pattern[str]:
    return re.compile(letters)


def words_of(step: LadderStep, language: str) -> str:
    """Return what a step says in a language: the policy's words, or else the product's.

    Args:
        step: `introspect`, `rewrite` or `refuse`.
        language: From `language_of`.
    """
    own = step.texts.get(language)
    if own is not None:
        return own
    defaults = own_words().get(step.action)
    if _FALLBACK in step.texts and (defaults is None or language not in defaults or language == _FALLBACK):
        return step.texts[_FALLBACK]
    if defaults is None:
        return REWRITE_INSTRUCTION
    return defaults.get(language, defaults[_FALLBACK])


def joined_to(text: str, sentence: str) -> str:
    """Return what to put behind a text so that a sentence follows it: white space, where none is there, and it."""
    if not text or text[-1].isspace():
        return sentence
    has_blanks = language_of(sentence) not in ("zh", "ja", "th")
    is_block = "\n" in text.rstrip() or text.rstrip()[-1:] in ":-*#`"
    return ("\n\n" if is_block else " " if has_blanks else "") + sentence
