"""API keys by the prefixes that providers document, and secrets that are assigned to a name."""

import re
from collections import Counter
from math import log2

from streamward.detectors.scanning import PatternScanner, ScanHit, pattern_scanner

_KNOWN = (
    r"sk-ant-[A-Za-z0-9_-]{20,512}",  # Anthropic
    r"sk-(?:proj|svcacct|admin|or-v1)-[A-Za-z0-9_-]{20,512}",  # OpenAI, OpenRouter
    r"sk-[A-Za-z0-9]{20,128}",  # OpenAI before 2024, DeepSeek, Moonshot
    r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}",  # AWS access key id
    r"ABSK[A-Za-z0-9+/]{60,256}={0,2}",  # AWS Bedrock
    r"AIza[A-Za-z0-9_-]{35}",  # Google
    r"GOCSPX-[A-Za-z0-9_-]{28}",  # Google OAuth client secret
    r"ya29\.[A-Za-z0-9_-]{30,512}",  # Google OAuth access token
    r"gh[pousr]_[A-Za-z0-9]{36,251}",  # GitHub
    r"github_pat_[A-Za-z0-9_]{60,251}",
    r"gl(?:pat|dt|rt|cbt|ptt|oas|soat|agent|ft)-[A-Za-z0-9_.-]{20,128}",  # GitLab
    r"xox[abeoprs](?:\.xox[bp])?-[A-Za-z0-9-]{10,250}",  # Slack
    r"xapp-\d-[A-Za-z0-9-]{10,250}",
    r"(?:sk|rk|pk|whsec)_(?:live|test)_[A-Za-z0-9]{16,250}",  # Stripe
    r"whsec_[A-Za-z0-9+/=]{24,128}",
    r"hf_[A-Za-z0-9]{30,64}",  # Hugging Face
    r"npm_[A-Za-z0-9]{36}",
    r"pypi-[A-Za-z0-9_-]{50,512}",
    r"SG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{30,64}",  # SendGrid
    r"(?:AC|SK)[0-9a-f]{32}",  # Twilio
    r"key-[0-9a-f]{32}",  # Mailgun
    r"\d{8,10}:AA[A-Za-z0-9_-]{33}",  # Telegram bot
    r"[MN][A-Za-z0-9_-]{23,27}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,40}",  # Discord bot
    r"do[opr]_v1_[0-9a-f]{64}",  # DigitalOcean
    r"gsk_[A-Za-z0-9]{40,64}",  # Groq
    r"xai-[A-Za-z0-9]{60,128}",
    r"pplx-[A-Za-z0-9]{40,64}",  # Perplexity
    r"r8_[A-Za-z0-9]{37,40}",  # Replicate
    r"nvapi-[A-Za-z0-9_-]{60,72}",  # NVIDIA
    r"fw_[A-Za-z0-9]{20,32}",  # Fireworks
    r"csk-[A-Za-z0-9]{40,64}",  # Cerebras
    r"tgp_v1_[A-Za-z0-9_-]{40,64}",  # Together
    r"dapi[0-9a-f]{32}(?:-\d)?",  # Databricks
    r"shp(?:at|ca|pa|ss)_[A-Fa-f0-9]{32}",  # Shopify
    r"sq0[a-z]{3}-[A-Za-z0-9_-]{22,43}",  # Square
    r"EAAA[A-Za-z0-9_-]{60}",
    r"lin_(?:api|oauth)_[A-Za-z0-9]{32,64}",  # Linear
    r"(?:ntn|secret)_[A-Za-z0-9]{40,50}",  # Notion
    r"hv[sbr]\.[A-Za-z0-9_-]{20,250}",  # HashiCorp Vault
    r"[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_=-]{60,70}",  # Terraform Cloud
    r"glsa_[A-Za-z0-9]{32}_[0-9a-f]{8}",  # Grafana
    r"glc_[A-Za-z0-9+/]{32,400}={0,2}",
    r"dckr_(?:pat|oat)_[A-Za-z0-9_-]{20,64}",  # Docker
    r"PMAK-[0-9a-f]{24}-[0-9a-f]{34}",  # Postman
    r"figd_[A-Za-z0-9_-]{40,64}",  # Figma
    r"sbp_[0-9a-f]{40}",  # Supabase
    r"AGE-SECRET-KEY-1[A-Z0-9]{58}",  # age
    r"(?:AccountKey|SharedAccessKey)=[A-Za-z0-9+/]{40,90}={0,2}",  # Azure
    r"eyJ[A-Za-z0-9_-]{8,2048}\.eyJ[A-Za-z0-9_-]{8,4096}\.[A-Za-z0-9_-]{16,1024}",  # JSON Web Token
)
_NAMED = (
    r"(?:[A-Za-z0-9]{0,20}[_-]?)?(?:api[_-]?key|apikey|secret|token|passw(?:or)?d|passwort|pwd|access[_-]?key|auth[_-]?key"
    r"|contraseña|mot de passe|senha|пароль|密码|密碼)[\"']?(?: is)?[ \t]{0,3}(?:=>|:=|[:=]|(?<= is))[ \t]{0,3}[\"'`]?"
    r"[A-Za-z0-9+/_.~!@#$%^&*-]{8,256}={0,2}"
)
_KEY = rf"(?<![A-Za-z0-9_])(?:(?:{'|'.join(_KNOWN)})(?![A-Za-z0-9])|(?i:{_NAMED}))"
_VALUE = re.compile(r"(?:=>|:=|[:=]| is)[ \t]{0,3}[\"'`]?(?=[^\"'`\s:=>]+={0,2}$)", re.IGNORECASE)
_KNOWN_KEY = re.compile(rf"(?:{'|'.join(_KNOWN)})(?![A-Za-z0-9])")
_CODE = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")  # a name of a program, which holds no secret itself
_MIN_ENTROPY = 3.0
_MIN_NAMED_ENTROPY = 2.75


def entropy(text: str) -> float:
    """Return Shannon's entropy of the characters, in bits per character."""
    return -sum(count / len(text) * log2(count / len(text)) for count in Counter(text).values()) if text else 0.0


def api_key_scanner() -> PatternScanner:
    """Find API keys of known providers, JSON Web Tokens, and secrets that stand behind a name such as `api_key =`.

    The part behind a known prefix must have 3.0 bits of entropy per character or more; a value behind a name 2.75,
    and a digit or sign among its characters. Values of JSON Web Tokens may have 7,200 characters, which is what is
    held back at most, all others 530. In prose it is the last word.
    """
    return pattern_scanner(_KEY, _check_key)


def _check_key(buffer: str, start: int, end: int) -> ScanHit | None:
    known = _KNOWN_KEY.match(buffer, start)
    if known is not None:
        return ScanHit(start, known.end()) if entropy(buffer[start : known.end()]) >= _MIN_ENTROPY else None
    found = _VALUE.search(buffer, start, end)
    if found is None:
        return None
    stop = end
    while stop > found.end() and buffer[stop - 1] in ".,!":
        stop -= 1
    value = buffer[found.end() : stop]
    if _CODE.fullmatch(value):
        return None
    is_mixed = any(char.isdigit() for char in value) and any(char.isalpha() for char in value)
    if len(value) < 8 or not is_mixed or entropy(value) < _MIN_NAMED_ENTROPY:
        return None
    return ScanHit(found.end(), stop)
