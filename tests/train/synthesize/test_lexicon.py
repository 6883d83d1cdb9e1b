import re
from pathlib import Path

import pytest

from streamward.errors import ConfigError
from streamward.schema import Category, RiskLevel
from streamward.train.synthesize.lexicon import Lexicon, read_lexicons
from tests.train.synthesize.lexicons import SHIPPED, TINY, shipped


@pytest.fixture(scope="module")
def languages() -> dict[str, Lexicon]:
    return shipped()


def test_at_least_fifteen_languages_ship(languages: dict[str, Lexicon]) -> None:
    assert len(languages) >= 15


def test_every_kind_of_harm_but_jailbreak_has_topics(languages: dict[str, Lexicon]) -> None:
    wanted = set(Category) - {Category.JAILBREAK}  # made by wrapping
    missing = {name: wanted - {topic.category for topic in found.topics} for name, found in languages.items()}
    assert {name: gap for name, gap in missing.items() if gap - {Category.SEXUAL}} == {}
    assert missing["en"] == set()


def test_both_sides_of_a_pair_differ(languages: dict[str, Lexicon]) -> None:
    pairs = [pair for found in languages.values() for topic in found.topics for pair in topic.acts + topic.asks]
    assert [pair for pair in pairs if pair.harmful == pair.harmless] == []


def test_frames_have_their_slots(languages: dict[str, Lexicon]) -> None:
    for found in languages.values():
        frames = found.frames
        for name in ("act", "short_request", "safe_context", "controversial_context"):
            assert [frame for frame in getattr(frames, name) if frame.count("{act}") != 1] == [], found.language
        assert [frame for frame in (*frames.jailbreak, *frames.roleplay) if "{ask}" not in frame] == [], found.language
        said = found.statements
        assert [each for each in (*said.derogatory, *said.neutral, *said.counter) if "{group}" not in each] == []


def test_every_language_has_long_replies_pleas_and_statements(languages: dict[str, Lexicon]) -> None:
    for found in languages.values():
        assert min(len(found.frames.short_request), len(found.replies.steps), len(found.statements.counter)) >= 3, (
            found.language
        )


def test_lists_of_safe_and_harmful_replies_share_their_heads(languages: dict[str, Lexicon]) -> None:
    for found in languages.values():
        words = found.replies
        heads = [{re.split("[:\uff1a]", point)[0] for point in points} for points in (words.reasons, words.steps)]
        assert len(heads[0] & heads[1]) >= 4, found.language


def test_nothing_about_minors_is_ever_complied_with(languages: dict[str, Lexicon]) -> None:
    topics = [topic for found in languages.values() for topic in found.topics if topic.refuse_only]
    assert topics
    assert [topic.name for topic in topics if topic.comply] == []


def test_no_harmful_sentence_holds_quantities(languages: dict[str, Lexicon]) -> None:
    """Amounts, temperatures and addresses would be usable detail."""
    unit = re.compile(r"\d+ ?(g|kg|mg|ml|l|grams?|degrees|%|volts?)\b|https?://", re.IGNORECASE)
    said = [text for found in languages.values() for topic in found.topics for text in topic.comply]
    said += [text for found in languages.values() for text in found.frames.comply]
    said += [text for found in languages.values() for exchange in found.exchanges for text in exchange.bad]
    said += [text for found in languages.values() for text in (*found.replies.steps, *found.replies.dark_tales)]
    assert [text for text in said if unit.search(text)] == []


def test_a_language_is_one_file_or_a_folder_of_files(tmp_path: Path) -> None:
    (tmp_path / "xx.toml").write_text(
        '[frames]\nact = ["{act}?"]\nrefusal = ["no"]\nbenign_body = ["yes"]\n'
        '[[topics]]\nname = "t"\ncategory = "PII"\nacts = ["a | b"]\n',
        encoding="utf-8",
    )
    (tmp_path / "yy").mkdir()
    (tmp_path / "yy" / "frames.toml").write_text('act = ["{act}?"]\nrefusal = ["no"]\nbenign_body = ["y"]\n', "utf-8")
    (tmp_path / "yy" / "p.toml").write_text(
        'category = "PII"\n[[topics]]\nname = "t"\nlevel = "Controversial"\n', "utf-8"
    )
    one, other = read_lexicons(tmp_path)
    assert one.topics[0].acts[0].harmless == "b"
    assert (other.language, other.topics[0].category, other.topics[0].level) == (
        "yy",
        Category.PII,
        RiskLevel.CONTROVERSIAL,
    )


FRAMES = '[frames]\nact = ["a"]\nrefusal = ["b"]\nbenign_body = ["c"]\n'
TOPIC = '[[topics]]\nname = "t"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[frames", "xx.toml"),
        (FRAMES, "topics"),
        (f'{FRAMES}{TOPIC}category = "Rude"\n', "category"),
        (f'{FRAMES}{TOPIC}category = "PII"\nacts = ["a"]\n', "harmless"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "xx.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        read_lexicons(tmp_path)


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no language"):
        read_lexicons(tmp_path)


def test_the_shipped_files_are_where_the_config_looks() -> None:
    config = (SHIPPED.parents[1] / "configs" / "train" / "synthesize.toml").read_text(encoding="utf-8")
    assert 'lexicon = "datasets/synthesis"' in config
    assert TINY["language"] == "en"
