"""What keeps a service from starting is told at once, before its guard is loaded."""

import json
import socket

import pytest

from streamward.cli.main import main
from streamward.server import preflight


@pytest.fixture
def taken():
    """A port of this machine on which something listens."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Write settings; returns the file."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def write(text: str) -> str:
        path = tmp_path / "serve.toml"
        path.write_text(text)
        return str(path)

    return write


GOOD = "[listen]\nport = 0\n"


def test_settings_that_hold_are_said_to(file, capsys, tmp_path):
    assert main(["serve", file(GOOD), "--check"]) == 0
    assert "nothing keeps the service from starting" in capsys.readouterr().out
    assert not (tmp_path / "state").exists()  # nothing was made


def test_every_problem_is_told_at_once(file, capsys, tmp_path, taken, monkeypatch):
    monkeypatch.setenv("WEAK_KEY", "changeme")
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "one.toml").write_text("name = ")
    (tmp_path / "policies" / "two.toml").write_text('name = "two"\ncolour = "red"\n')
    settings = f"""
        guard = "stream-135"
        colour = "red"
        [listen]
        port = {taken}
        tls_certificate = "{tmp_path}/chain.pem"
        tls_key = "{tmp_path}/key.pem"
        [limits]
        max_in_flight = 0
        one = 1
        two = 2
        three = 3
        four = 4
        five = 5
        [gateway]
        state_key_env = "NOT_SET_ANYWHERE_EITHER"
        [auth]
        admin_key_env = "WEAK_KEY"
        [policies]
        folder = "{tmp_path}/policies"
        [store]
        url = "postgresql://127.0.0.1:1/x"
        timeout_s = 1.0
        [audit]
        hash_key_env = "NOT_SET_ANYWHERE"
        [upstreams.one]
        base_url = "http://127.0.0.1:1/v1"
        api_key_env = "NOT_SET_EITHER"
        [upstreams.two]
        base_url = "http://127.0.0.1:1/v1"
        ca_file = "{tmp_path}/ca.pem"
        [upstreams.three]
        base_url = "http://127.0.0.1:1/v1"
        api_key = "spelled out"
    """
    assert main(["serve", file(settings), "--check"]) == 2
    told = capsys.readouterr().err
    for part in (
        "colour",
        "limits.max_in_flight",
        "limits.five",
        "NOT_SET_ANYWHERE_EITHER (gateway.state_key_env)",
        "upstreams.three.api_key",
        "there is no guard 'stream-135'",
        f"port {taken} of 127.0.0.1 is taken",
        "chain.pem' cannot be read: No such file",
        "key.pem' cannot be read: No such file",
        "WEAK_KEY (auth.admin_key_env) is too easily guessed",
        "one.toml",
        "two.toml",
        "the database cannot be opened",
        "NOT_SET_ANYWHERE",
        "upstreams.one: the environment variable NOT_SET_EITHER",
        "upstreams.two.ca_file",
    ):
        assert part in told
    assert "changeme" not in told


@pytest.mark.parametrize("guard", ["gen-135m", "http://127.0.0.1:1/v1#guard"])
def test_a_guard_that_cannot_stream_is_told_before_it_is_loaded(file, capsys, guard):
    settings = f'guard = "{guard}"\n{GOOD}[upstreams.up]\nbase_url = "http://127.0.0.1:1/v1"\n'
    assert main(["serve", file(settings), "--check"]) == 2
    assert "cannot guard the upstreams up" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("guard", "problem"),
    [
        ("./nothing", "there is no guard './nothing'"),
        ("http://127.0.0.1:1/v1", "#model"),
        ("nothing", "stream-135m"),
    ],
)
def test_a_guard_that_is_not_there_is_told(file, capsys, guard, problem):
    assert main(["serve", file(f'guard = "{guard}"\n{GOOD}'), "--check"]) == 2
    assert problem in capsys.readouterr().err


def test_settings_that_contradict_each_other_do_not_hide_what_else_is_wrong(file, capsys):
    settings = 'guard = "nothing"\n[listen]\nhost = "0.0.0.0"\n[auth]\nrequired = false\n'
    assert main(["serve", file(settings), "--check"]) == 2
    told = capsys.readouterr().err
    assert "loopback" in told
    assert "there is no guard" in told


def test_extras_that_are_missing_are_named_with_what_installs_them(file, capsys, monkeypatch):
    installed = preflight.find_spec
    absent = ("opentelemetry", "alembic")
    monkeypatch.setattr(preflight, "find_spec", lambda name: None if name in absent else installed(name))
    assert main(["serve", file(f"{GOOD}[log]\nopentelemetry = true\n"), "--check"]) == 2
    told = capsys.readouterr().err
    assert "alembic; run: pip install 'streamward[serve]'" in told
    assert "pip install 'streamward[otel]'" in told


def test_settings_are_printed_with_what_is_wrong_beside_them(file, capsys, taken):
    assert main(["serve", file(f"[listen]\nport = {taken}\n"), "--print-config"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["listen"]["port"] == taken
    assert f"port {taken} of 127.0.0.1 is taken" in printed.err


def test_a_port_that_is_taken_is_told_before_the_guard_is_loaded(file, capsys, taken, monkeypatch):
    monkeypatch.setattr("streamward.loading.load", lambda *_, **__: pytest.fail("the guard was loaded"))
    assert main(["serve", file(f"[listen]\nport = {taken}\n")]) == 2
    told = capsys.readouterr().err
    assert "is taken" in told
    assert "Errno" not in told


def test_an_address_of_another_machine_is_told(file, capsys):
    assert main(["serve", file('[listen]\nhost = "192.0.2.1"\nport = 0\n'), "--check"]) == 2
    assert "192.0.2.1' is not an address of this machine" in capsys.readouterr().err


def test_an_upstream_that_only_a_ladder_names_is_told(file, capsys, tmp_path):
    (tmp_path / "policies").mkdir()
    policy = 'name = "mine"\n[release]\nmode = "intervene"\n[[release.ladder]]\naction = "rewrite"\nupstream = "gone"\n'
    (tmp_path / "policies" / "mine.toml").write_text(policy)
    assert main(["serve", file(f'{GOOD}[policies]\nfolder = "{tmp_path}/policies"\n'), "--check"]) == 2
    assert "'gone', which is not configured; there are none" in capsys.readouterr().err


def test_an_upstream_that_cannot_continue_a_text_is_told_where_it_should(file, capsys):
    upstream = '[upstreams.up]\nbase_url = "http://127.0.0.1:9/v1"\nmodels = ["m"]\nprefill = "prefix"\n'
    assert main(["serve", file(GOOD + upstream), "--check"]) == 2
    assert "the upstream up does not continue a text" in capsys.readouterr().err
