"""The published layouts of the benchmark sets: one record of a file into rows of our own schema.

Each reader returns mappings with the keys that `streamward.data.jsonl` reads (`prompt`, `response`, `prompt_label` ...)
and `native` for fields that say which rows a figure was published on.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from streamward.evals.readers import Record
from streamward.evals.taxonomies import AEGIS, HARMBENCH, OPENAI_MODERATION, SAFERLHF, SIMPLE_SAFETY_TESTS, WILDGUARD
from streamward.schema import Category, RiskLevel

Row = dict[str, Any]  # Any: values of our schema
Layout = Callable[[Record], Iterator[Row]]

_SAFE, _CONTROVERSIAL, _UNSAFE = (level.value for level in RiskLevel)
_NO = ("", "0", "false", "no", "none", "nan", "null")
_OPENAI_FLAGS = ("S", "H", "V", "HR", "SH", "S3", "H2", "V2")
_RTP_LX_UNSAFE, _RTP_LX_SAFE = 3.0, 1.0  # mean toxicity on 1 to 5


def _flag(value: object) -> bool:
    """Read a yes or no as CSV, JSON and Parquet spell it."""
    return str(value).strip().lower() not in (*_NO, "0.0")


def _level(is_unsafe: bool) -> str:
    return _UNSAFE if is_unsafe else _SAFE


def _word(value: object, words: Mapping[str, Any]) -> Any:  # Any: what the words stand for
    """Return what a word stands for; None where there is none.

    Raises:
        ValueError: The word is unknown.
    """
    text = str(value).strip().lower() if value is not None else ""
    if text in ("", "none", "nan", "null"):
        return None
    if text not in words:
        raise ValueError("unknown label")
    return words[text]


_HARM = {"harmful": _UNSAFE, "unharmful": _SAFE, "unsafe": _UNSAFE, "safe": _SAFE, "yes": _UNSAFE, "no": _SAFE}
_REFUSAL = {"refusal": True, "compliance": False, "yes": True, "no": False}


def _categories(names: object, table: Mapping[str, Category | None]) -> list[str]:
    """Map native names on ours, each once; names without a counterpart are left out."""
    parts = names if isinstance(names, list | tuple) else str(names or "").split(",")
    found = (table.get(str(part).strip().lower()) for part in parts)
    return list(dict.fromkeys(category.value for category in found if category is not None))


def _toxicchat(record: Record) -> Iterator[Row]:
    is_toxic = _flag(record["toxicity"])
    yield {
        "prompt": record["user_input"],
        "prompt_label": _level(is_toxic),
        "categories": [Category.JAILBREAK.value] if is_toxic and _flag(record.get("jailbreaking")) else [],
        "native": {"published_subset": _flag(record.get("human_annotation"))},
    }


def _openai_moderation(record: Record) -> Iterator[Row]:
    flags = [name for name in _OPENAI_FLAGS if record.get(name) is not None and _flag(record[name])]
    categories = _categories(flags, OPENAI_MODERATION)
    yield {"prompt": record["prompt"], "prompt_label": _level(bool(flags)), "categories": categories}


def _aegis1(record: Record) -> Iterator[Row]:
    if str(record.get("text_type", "user_message")) != "user_message":
        return  # the published column holds prompts only
    labels = [part.strip() for part in str(record["labels_0"]).split(",")]
    is_unsafe = any(label.lower() not in ("safe", "needs caution") for label in labels)
    categories = _categories(labels, AEGIS) if is_unsafe else []
    yield {"prompt": record["text"], "prompt_label": _level(is_unsafe), "categories": categories}


def _aegis2(record: Record) -> Iterator[Row]:
    yield {
        "prompt": record["prompt"],
        "response": record.get("response") or None,
        "prompt_label": _word(record["prompt_label"], _HARM),
        "response_label": _word(record.get("response_label"), _HARM),
        "categories": _categories(record.get("violated_categories"), AEGIS),
    }


def _simplesafetytests(record: Record) -> Iterator[Row]:
    prompt = record.get("prompt") or record["prompts_final"]
    yield {
        "prompt": prompt,
        "prompt_label": _UNSAFE,
        "categories": _categories([record["harm_area"]], SIMPLE_SAFETY_TESTS),
    }


def _harmbench_prompts(record: Record) -> Iterator[Row]:
    kind = record["FunctionalCategory"]
    is_test = str(record.get("split", "test")) == "test"
    yield {
        "id": record["BehaviorID"],
        "prompt": record["Behavior"],
        "prompt_label": _UNSAFE,
        "categories": _categories([record["SemanticCategory"]], HARMBENCH),
        "native": {"published_subset": is_test and kind in ("standard", "copyright")},
    }


def _harmbench_responses(record: Record) -> Iterator[Row]:
    votes = record.get("human_classifications") or [record[key] for key in record if key.startswith("human_label")]
    if not votes:
        raise KeyError("human_classifications")
    is_unsafe = 2 * sum(_flag(vote) for vote in votes) > len(votes)
    prompt = record.get("test_case") or record.get("prompt") or record["behavior"]
    yield {
        "prompt": prompt,
        "response": record.get("generation", record.get("response")),
        "response_label": _level(is_unsafe),
    }


def _wildguard(record: Record) -> Iterator[Row]:
    yield {
        "prompt": record["prompt"],
        "response": record.get("response") or None,
        "prompt_label": _word(record.get("prompt_harm_label"), _HARM),
        "response_label": _word(record.get("response_harm_label"), _HARM),
        "refusal": _word(record.get("response_refusal_label"), _REFUSAL),
        "categories": _categories([record.get("subcategory")], WILDGUARD),
        "native": {"subcategory": record.get("subcategory")},
    }


def _polyguard(record: Record) -> Iterator[Row]:
    for row in _wildguard(record):
        yield {**row, "lang": str(record["language"]).split("-")[0]}


def _saferlhf(record: Record) -> Iterator[Row]:
    for number in (0, 1):
        is_unsafe = not _flag(record[f"is_response_{number}_safe"])
        harms = record.get(f"response_{number}_harm_category") or {}
        names = [name for name, holds in harms.items() if holds] if isinstance(harms, dict) else []
        yield {
            "prompt": record["prompt"],
            "response": record[f"response_{number}"],
            "response_label": _level(is_unsafe),
            "categories": _categories(names, SAFERLHF),
        }


def _beavertails(record: Record) -> Iterator[Row]:
    harms = record.get("category") or {}
    harms = json.loads(harms) if isinstance(harms, str) else harms
    yield {
        "prompt": record["prompt"],
        "response": record["response"],
        "response_label": _level(not _flag(record["is_safe"])),
        "categories": _categories([name for name, holds in harms.items() if holds], SAFERLHF),
        "native": {"harms": sorted(name for name, holds in harms.items() if holds)},
    }


def _xstest_prompts(record: Record) -> Iterator[Row]:
    label = record.get("label")
    is_unsafe = str(label) == "unsafe" if label is not None else str(record["type"]).startswith("contrast")
    yield {"prompt": record["prompt"], "prompt_label": _level(is_unsafe)}


def _xstest_responses(record: Record) -> Iterator[Row]:
    """Read either of the two files; their rows differ in which label they hold, or in a `label` column of words."""
    words: dict[str, object] = {**_HARM, **_REFUSAL}
    label = _word(record["label"], words)
    row: Row = {"prompt": record["prompt"], "response": record["response"]}
    if isinstance(label, bool):
        yield {**row, "refusal": label, "native": {"task": "refusal"}}
    else:
        yield {**row, "response_label": label, "native": {"task": "harm"}}


def _xstest_refusals(record: Record) -> Iterator[Row]:
    verdicts = {"1_full_compliance": False, "2_full_refusal": True, "3_partial_refusal": None}
    label = str(record.get("final_label") or record["annotation_1"])
    if label not in verdicts:
        raise ValueError("unknown label")
    row: Row = {"prompt": record["prompt"], "response": record["completion"]}
    if verdicts[label] is not None:
        yield {**row, "refusal": verdicts[label]}


def _rtp_lx(record: Record) -> Iterator[Row]:
    score = record["Toxicity"] if "Toxicity" in record else record["toxicity"]
    scores = [float(each) for each in (score if isinstance(score, list) else [score])]
    mean = sum(scores) / len(scores)
    level = _UNSAFE if mean >= _RTP_LX_UNSAFE else _SAFE if mean <= _RTP_LX_SAFE else _CONTROVERSIAL
    locale = str(record.get("Locale", record.get("locale", ""))).split("-")[0].split("_")[0].lower()
    prompt = record.get("Prompt") or record["prompt"]
    yield {"prompt": prompt, "prompt_label": level, "lang": locale, "native": {"mean_toxicity": mean}}


def _qwen3guardtest(record: Record) -> Iterator[Row]:
    from streamward.evals.qwen_tokens import response_parts  # needs Qwen's vocabulary where tokens are marked

    user, assistant = record["message"][-2:]
    text, span = response_parts(assistant["content"], record)
    yield {
        "id": record.get("unique_id", ""),
        "prompt": user["content"],
        "response": text,
        "response_label": RiskLevel(record["label"]).value,
        "unsafe_start": None if span is None else span[0],
        "spans": None if span is None else [span],
        "native": {"source": record.get("source")},
    }


DATASET_ADAPTERS: Mapping[str, Layout] = {
    "aegis1": _aegis1,
    "aegis2": _aegis2,
    "beavertails": _beavertails,
    "harmbench_prompts": _harmbench_prompts,
    "harmbench_responses": _harmbench_responses,
    "openai_moderation": _openai_moderation,
    "polyguard": _polyguard,
    "qwen3guardtest": _qwen3guardtest,
    "rtp_lx": _rtp_lx,
    "saferlhf": _saferlhf,
    "simplesafetytests": _simplesafetytests,
    "toxicchat": _toxicchat,
    "wildguard": _wildguard,
    "xstest_prompts": _xstest_prompts,
    "xstest_refusals": _xstest_refusals,
    "xstest_responses": _xstest_responses,
}
