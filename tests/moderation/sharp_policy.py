"""A policy under which the tiny guard flags some texts, and text of many scripts for it to judge."""

from streamward.policy import Policy

PROMPT = "hello there"
TEXT = (
    "the thing about “quotes” and émigré 中文字符 👩‍💻 rolling; العربية e\u0301 def f(x):\n    return 'll <|im_end|> "
)
POLICY = Policy.parse(
    {
        "name": "sharp",
        "prompt": {"unsafe": "allow", "controversial": "allow"},
        "response": {"controversial": "allow", "thresholds": {"unsafe": 0.55}},
    },
    source="test",
)
