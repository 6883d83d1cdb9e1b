"""`streamward moderate`: what it prints and how it ends."""

import io
import json
import sys

import pytest

from streamward.cli import moderate
from streamward.cli.main import main
from streamward.errors import OverloadedError, UpstreamError
from streamward.moderation.moderator import Moderator
from streamward.policy import Policy
from tests.moderation.guards import stream_guard

LINES = {"never": (1.0, 1.0), "always": (0.0, 0.0)}


@pytest.fixture
def policies(tmp_path):
    """Two policy files: one blocks nothing, one everything."""
    paths = {}
    for name, (unsafe, controversial) in LINES.items():
        lines = f"unsafe = {unsafe}\ncontroversial = {controversial}\n"
        sides = "".join(f"[{side}.thresholds]\n{lines}" for side in ("prompt", "response"))
        paths[name] = str(tmp_path / f"{name}.toml")
        (tmp_path / f"{name}.toml").write_text(f'name = "{name}"\n{sides}')
    return paths


@pytest.fixture(autouse=True)
def guard(monkeypatch):
    """A tiny guard instead of the embedded one."""
    made = []

    def load(arguments):
        made.append(Moderator(stream_guard(), policy=Policy.load(arguments.policy), max_chars=10_000))
        return made[-1]

    monkeypatch.setattr(moderate, "load", load)
    return made


def feed(monkeypatch, data: bytes, *, is_terminal: bool = False) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(data))
    stdin.isatty = lambda: is_terminal  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdin", stdin)


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    try:
        code = main(["moderate", *arguments])
    except SystemExit as stop:  # argparse
        code = int(str(stop.code))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_an_allowed_text_ends_with_zero(capsys, policies):
    code, out, _ = run(capsys, "hello", "--policy", policies["never"])
    assert code == 0
    assert "allow" in out


def test_a_blocked_text_ends_with_three(capsys, policies):
    code, out, _ = run(capsys, "hello", "--policy", policies["always"])
    assert code == 3
    assert "block" in out
    assert "because of the prompt" in out


def test_json_has_the_promised_keys(capsys, policies):
    code, out, _ = run(capsys, "--prompt", "p", "--response", "the thing", "--policy", policies["always"], "--json")
    answer = json.loads(out)
    assert code == 3
    assert {"risk_level", "category", "probabilities", "decision", "first_flagged_char", "prompt", "response"} <= set(
        answer
    )
    assert answer["decision"]["action"] == "block"
    assert answer["risk_level"] == "Unsafe"
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=0.01)
    assert answer["response"]["first_flagged_char"] == 3  # the second token
    assert "verdicts" not in answer["response"]


def test_a_threshold_stands_beside_every_probability(capsys, policies, monkeypatch, guard):
    _, out, _ = run(capsys, "--prompt", "p", "--response", "the thing", "--policy", policies["never"])
    assert out.count("thresholds: Unsafe 1.00, Unsafe and Controversial together 1.00") == 2
    _, out, _ = run(capsys, "--prompt", "p", "--policy", policies["never"], "--json")
    assert json.loads(out)["thresholds"] == {"Unsafe": 1.0, "Controversial": 1.0}
    _, out, _ = run(capsys, "--prompt", "p")
    assert "thresholds" not in out  # this guard states none, and nor does strict: the most probable level counts


def test_verdicts_of_every_token_can_be_had(capsys, policies):
    _, out, _ = run(capsys, "--response", "the thing", "--policy", policies["never"], "--json", "--verdicts")
    verdicts = json.loads(out)["response"]["verdicts"]
    assert [verdict["position"] for verdict in verdicts] == list(range(len(verdicts)))
    assert verdicts[-1]["span"][1] == len("the thing")


def test_standard_input_is_the_prompt(capsys, policies, monkeypatch):
    answers = set()
    for arguments in (["-"], []):
        for encoding in ("utf-8", "utf-8-sig", "utf-16"):
            feed(monkeypatch, "h\xe9llo \x00 w\xf6rld".encode(encoding))
            code, out, _ = run(capsys, *arguments, "--policy", policies["never"], "--json")
            answers.add((code, json.loads(out)["risk_level"], str(json.loads(out)["probabilities"])))
    assert len(answers) == 1  # whatever the encoding


def test_text_in_an_unknown_encoding_is_refused_with_its_place(capsys, monkeypatch):
    feed(monkeypatch, b"one\ntwo caf\xe9\n")
    code, out, err = run(capsys, "-")
    assert (code, out) == (2, "")
    assert "standard input: line 2: byte 0xe9 is not UTF-8; save the file as UTF-8 or UTF-16" in err


@pytest.mark.parametrize("data", [b"", b"\n \t\n", b"\xef\xbb\xbf", b"\xff\xfe"])
def test_standard_input_without_text_is_bad_input(capsys, monkeypatch, guard, data):
    for arguments in (["-"], [], ["--jsonl", "-"]):
        feed(monkeypatch, data)
        code, out, err = run(capsys, *arguments)
        assert (code, out) == (2, "")
        assert "nothing to judge" in err
    assert guard == []  # nobody waited for it to load


@pytest.mark.parametrize("arguments", [[""], [" "], ["--prompt", ""], ["--response", "\n"]])
def test_a_blank_argument_is_bad_input(capsys, arguments):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert "nothing to judge" in err


def test_messages_come_from_a_file(capsys, policies, tmp_path):
    path = tmp_path / "conversation.json"
    path.write_text(json.dumps([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]))
    code, out, _ = run(capsys, "--messages", str(path), "--json", "--policy", policies["never"])
    assert code == 0
    assert json.loads(out)["response"]["tokens"] == 1


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["x", "--prompt", "y"], "TEXT is the prompt"),
        (["x", "--jsonl", "y"], "nothing beside it"),
        (["x", "--ray", "in.jsonl", "out.jsonl"], "nothing beside it"),
        (["x", "--policy", "nope"], "policy 'nope' not found"),
        (["--messages", "missing.json"], "'missing.json' cannot be read"),
        (["z" * 10_001], "at most 10000"),
        (["--nonsense"], "unrecognized arguments"),
    ],
)
def test_bad_input_ends_with_two_and_one_line(capsys, arguments, problem):
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert problem in err
    assert "Traceback" not in err


def test_nothing_to_judge_at_a_terminal_is_bad_input(capsys, monkeypatch):
    feed(monkeypatch, b"", is_terminal=True)
    code, _, err = run(capsys)
    assert code == 2
    assert "nothing to judge" in err


def test_messages_that_are_not_json_are_bad_input(capsys, tmp_path):
    path = tmp_path / "broken.json"
    path.write_bytes(b"\xff{")
    code, _, err = run(capsys, "--messages", str(path))
    assert (code, "is not JSON" in err) == (2, True)


def test_every_row_of_a_file_is_answered_in_order(capsys, policies, tmp_path):
    rows = [
        '{"id": "a", "prompt": "hello"}',
        "not json",
        "",
        '{"prompt": 5}',
        '{"id": 7, "prompt": "p", "response": "r", "lang": "en"}',
        "[1]",
        json.dumps({"id": "long", "prompt": "z" * 10_001}),
        '{"id": "\\ud83d", "messages": [{"role": "user", "content": "\\ud83d"}]}',
        *[json.dumps({"prompt": f"x{number}"}) for number in range(70)],
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(rows))
    code, out, _ = run(capsys, "--jsonl", str(path), "--json", "--policy", policies["never"])
    answers = [json.loads(line) for line in out.splitlines()]
    assert code == 2
    assert [answer["line"] for answer in answers] == [1, 2, *range(4, len(rows) + 1)]
    assert [answer.get("id") for answer in answers[:7]] == ["a", None, None, 7, None, "long", "\ud83d"]
    assert [("error" in answer) for answer in answers[:7]] == [False, True, True, False, True, True, False]
    assert not any("error" in answer for answer in answers[7:])


ROWS = [
    '{"id": "first", "prompt": "hello"}',
    "",
    '{"prompt": "\u00e9migr\u00e9s \u4e2d\u6587 \U0001f469", "id": "\u0a0a\u2028"}',
    '{"id": "long", "prompt": "%s"}' % ("word " * 1900),
    '{"id": "null", "response": "a\\u0000b \\ud83d"}',
]
ENCODINGS = {
    "utf-8": b"",
    "utf-8-sig": b"",
    "utf-16": b"",
    "utf-16-le": b"",
    "utf-16-be": b"\xfe\xff",
    "utf-16-be ": b"",
}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("has_last_end", [True, False])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_rows_are_read_in_the_encodings_people_save_them_in(
    capsys, policies, monkeypatch, tmp_path, encoding, end, has_last_end
):
    data = ENCODINGS[encoding] + (end.join(ROWS) + end * has_last_end).encode(encoding.strip())
    path = tmp_path / "rows.jsonl"
    path.write_bytes(data)
    feed(monkeypatch, data)
    for source in (str(path), "-"):
        code, out, _ = run(capsys, "--jsonl", source, "--json", "--policy", policies["never"])
        answers = [json.loads(line) for line in out.splitlines()]
        assert code == 0
        assert [(answer["line"], answer.get("id")) for answer in answers] == [
            (1, "first"),
            (3, "\u0a0a\u2028"),
            (4, "long"),
            (5, "null"),
        ]
        assert answers[3]["response"]["tokens"] > 0


def test_a_row_in_another_encoding_is_named_and_the_others_are_judged(capsys, policies, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"prompt": "a"}\n\n{"prompt": "caf\xe9"}\n{"promt": "b"}\n{"prompt": ]\n{}\n{"prompt": " "}\n')
    code, out, _ = run(capsys, "--jsonl", str(path), "--policy", policies["never"])
    assert code == 2
    assert "line 3: byte 0xe9 is not UTF-8; save the file as UTF-8 or UTF-16 with a byte order mark" in out
    assert "line 4: the row has none of the keys" in out
    assert "did you mean 'prompt'?" in out
    assert "line 5: the line is not JSON from character 12 on" in out
    assert "line 6: the row has none of the keys prompt, response, messages" in out
    assert "line 7: there is nothing to judge" in out


def test_a_last_line_of_thirty_thousand_words_is_one_row(capsys, policies, monkeypatch):
    words = "word " * 30_000
    for data in (f'{{"prompt": "a"}}\n{{"prompt": "{words}"}}'.encode(each) for each in ("utf-8", "utf-16")):
        feed(monkeypatch, data)
        code, out, _ = run(capsys, "--jsonl", "-", "--json", "--policy", policies["never"])
        assert code == 2
        last = json.loads(out.splitlines()[1])
        assert last["error"]["code"] == "context_length_exceeded"  # of this guard; the row came whole
        assert "150000 characters" in last["error"]["message"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_messages_are_read_in_the_encodings_people_save_them_in(capsys, policies, tmp_path, encoding):
    path = tmp_path / "conversation.json"
    turns = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "gr\u00fc\u00dfe"}]},
        {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "1", "content": "fine"},
    ]
    path.write_bytes(json.dumps(turns, ensure_ascii=False).encode(encoding))
    code, out, _ = run(capsys, "--messages", str(path), "--json", "--policy", policies["never"])
    assert code == 0
    assert json.loads(out)["prompt"]["tokens"] == 1


def test_rows_can_come_from_standard_input_and_a_block_shows_in_the_exit_code(capsys, policies, monkeypatch):
    feed(monkeypatch, b'{"prompt": "a"}\n{"prompt": "b"}\n')
    code, out, _ = run(capsys, "--jsonl", "-", "--policy", policies["always"])
    assert code == 3
    assert out.count("decision block") == 2


def test_a_guard_that_fails_ends_with_one(capsys, monkeypatch, policies):
    def fail(self, conversation, policy):
        raise UpstreamError("the endpoint did not answer")

    monkeypatch.setattr("streamward.moderation.stream_guard.StreamGuard.judge_coroutine", fail)
    code, out, _ = run(capsys, "hello", "--json", "--policy", policies["never"])
    assert code == 1
    assert json.loads(out)["decision"]["error"] == "upstream_failed"
    assert json.loads(out)["risk_level"] is None


def test_overload_ends_with_one_and_no_traceback(capsys, monkeypatch):
    def fail(self, conversation, policy):
        raise OverloadedError("no room")

    monkeypatch.setattr("streamward.moderation.stream_guard.StreamGuard.judge_coroutine", fail)
    code, _, err = run(capsys, "hello")
    assert (code, err) == (1, "streamward: no room\n")


def test_a_defect_of_ours_is_one_line_without_the_text(capsys, monkeypatch):
    def fail(self, conversation, policy):
        raise ZeroDivisionError("swordfish")

    monkeypatch.setattr("streamward.moderation.stream_guard.StreamGuard.judge_coroutine", fail)
    code, out, err = run(capsys, "swordfish")
    assert code == 1
    assert "unexpected ZeroDivisionError" in err
    assert "swordfish" not in out + err


def test_without_ray_a_job_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "streamward.distributed.job", raising=False)
    code, _, err = run(capsys, "--ray", "in.jsonl", "out.jsonl")
    assert code == 2
    assert "--ray needs ray; run: pip install 'streamward[ray]'" in err
