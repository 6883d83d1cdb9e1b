"""Texts with identifiers in the formats of many countries. All are examples of documentation, or made up."""

from hypothesis import strategies as st

from streamward.detectors.config import DetectorConfig
from streamward.detectors.detectors import Detectors

TYPES = ("email", "phone", "card", "iban", "national_id", "ip", "url_credentials", "api_key", "private_key")
PLANTED = {
    "us": ("SSN 123-45-6789", "(415) 555-2671", "+1 650-253-0000", "4111 1111 1111 1111", "378282246310005"),
    "gb": ("AB 12 34 56 C", "+44 20 7946 0958", "GB29 NWBK 6016 1331 9268 19", "NHS 943 476 5870"),
    "de": ("36 574 261 809", "+49 170 1234567", "DE89 3704 0044 0532 0130 00", "Tel. 030 901820"),
    "fr": ("2 95 10 99 126 111 93", "01 42 68 53 00", "FR14 2004 1010 0505 0001 3M02 606"),
    "es": ("12345678Z", "X-1234567-L", "ES91 2100 0418 4502 0005 1332", "+34 912 34 56 78"),
    "it": ("RCCMNL83S18D969H", "IT60X0542811101000000123456", "+39 06 6982 1234"),
    "br": ("111.444.777-35", "CPF 39053344705", "+55 11 96123-4567"),
    "in": ("2341 2341 2346", "ACUPA7085R", "+91 74104 10123"),
    "cn": ("360426199101010071", "+86 139 1099 8888", "6200 0000 0000 0005"),
    "kr": ("900101-1234568", "+82 10-2345-6789"),
    "pl": ("PESEL 44051401359", "PL61109010140000071219812874"),
    "se": ("880320-0016", "+46 70 123 45 67"),
    "fi": ("131052-308T",),
    "ch": ("756.9217.0769.85", "CH93 0076 2011 6238 5295 7"),
    "nl": ("BSN 111222333", "NL91ABNA0417164300"),
    "tr": ("TC kimlik 17291716060", "TR33 0006 1005 1978 6457 8413 26"),
    "jp": ("マイナンバー 6214 9832 0257", "+81 90-1234-5678"),
    "net": ("jo.doe+list7@mail.example.co.uk", "203.0.113.77", "2001:db8::7:1", "https://bob7:s3cr3tpw@db.example"),
    "keys": (
        "AKIAIOSFODNN7EXAMPLE",
        "sk-ant-api03-R2d2c3poLeiaHanChewie1977",
        "password = Xy7!kk20qPz3",
        "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0B\nAQ7=\n-----END PRIVATE KEY-----",
    ),
}
ITEMS = tuple(item for items in PLANTED.values() for item in items)
FILLERS = (
    "Hello",
    "as we said, the",
    "и ещё",
    "请看",
    "was",
    "Ça va ?",
    "(see above)",
    "end.",
    "a@",
    "-",
    "http://",
    "é",
    "--",
)
GLUE = (" ", "\n", ", ", "; ", " (", ") ", ": ", '"', " | ", "\t")


def detectors(**changes: object) -> Detectors:
    """Return all built-in detectors, masking."""
    return Detectors.compile([DetectorConfig.model_validate({"type": each, **changes}) for each in TYPES])


@st.composite
def planted_texts(draw: st.DrawFn) -> str:
    """Return a text of identifiers with words without digits between them."""
    parts = []
    for _ in range(draw(st.integers(1, 5))):
        parts += [draw(st.sampled_from(FILLERS)), draw(st.sampled_from(GLUE))]
        parts += [draw(st.sampled_from(ITEMS)), draw(st.sampled_from(GLUE))]
    return "".join([*parts, draw(st.sampled_from(FILLERS))])


def cut(text: str, sizes: list[int]) -> list[str]:
    """Return a text in pieces of these sizes, again and again."""
    pieces, at, turn = [], 0, 0
    while at < len(text):
        pieces.append(text[at : at + sizes[turn % len(sizes)]])
        at, turn = at + sizes[turn % len(sizes)], turn + 1
    return pieces
