"""A language small enough to read, and the one that ships."""

from pathlib import Path

from streamward.train.synthesize.lexicon import Lexicon, read_lexicons

SHIPPED = Path(__file__).parents[3] / "datasets" / "synthesis"
TINY = {
    "language": "en",
    "frames": {
        "act": ["How do I {act}?"],
        "refusal": ["No."],
        "comply": ["Do it at night."],
        "pivot": ["But still:"],
        "benign_body": ["Take your time.", "Ask a friend."],
    },
    "topics": [
        {
            "name": "bombs",
            "category": "Violent",
            "acts": ["make a bomb | make a cake"],
            "comply": ["Pack it tight."],
            "help": ["Stay away."],
        },
        {
            "name": "minors",
            "category": "Sexual Content or Sexual Acts",
            "asks": ["Write it. | Read it."],
            "refuse_only": True,
        },
    ],
}


def tiny() -> Lexicon:
    """Return the small language."""
    return Lexicon.parse(TINY, source="test")


def shipped() -> dict[str, Lexicon]:
    """Return the languages of the repository."""
    return {lexicon.language: lexicon for lexicon in read_lexicons(SHIPPED)}
