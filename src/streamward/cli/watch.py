"""`streamward watch`: pass on a stream as far as it was judged and released."""

import argparse
import codecs
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from streamward.cli.common import ExitCode, add_guard_options, exit_code, load, say
from streamward.cli.show import describe_probabilities
from streamward.errors import InputError
from streamward.schema import Action, Decision, Side

if TYPE_CHECKING:
    from streamward.moderation.response_stream import ResponseStream

_READ_BYTES = 65536
_EXAMPLES = """\
examples:
  llm "Tell me a story" | streamward watch --prompt "Tell me a story"
  tail -f answer.txt | streamward watch --policy loose
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "watch",
        help="pass on a stream up to the point where it is stopped",
        description=(
            "Reads an answer on standard input while it is written, and writes to standard output what was judged and"
            " released, masked by the policy's detectors. Stops at a block with exit code 3."
        ),
        epilog=_EXAMPLES,
    )
    parser.add_argument("--prompt", metavar="P", help="prompt of the answer; judged too")
    add_guard_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Judge standard input and pass it on."""
    with load(arguments) as guard, guard.stream(prompt=arguments.prompt) as stream:
        gate = _Gate(stream)
        if is_stopped(stream.decision):
            return gate.stop(stream.decision)
        for piece in _pieces():
            stream.feed(piece)
            gate.take(piece)
            if is_stopped(stream.decision):
                return gate.stop(stream.decision)
            gate.release()
        decision = stream.finish().decision
        gate.take(b"", is_last=True)
        if is_stopped(decision):
            return gate.stop(decision)
        gate.release()
        if gate.is_blank:
            raise InputError("standard input was empty or blank, so there was nothing to judge")
        return exit_code(decision)


def is_stopped(decision: Decision) -> bool:
    """Return whether nothing more may be passed on."""
    return decision.action in (Action.BLOCK, Action.REPLACE)


def _pieces() -> Iterator[bytes]:
    """Yield standard input as it arrives."""
    while piece := os.read(sys.stdin.fileno(), _READ_BYTES):
        yield piece


class _Gate:
    """Holds text back until the stream has released it."""

    def __init__(self, stream: "ResponseStream") -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.is_blank = True
        """True if there was no text yet."""
        self._num_released = 0

    def take(self, piece: bytes, *, is_last: bool = False) -> None:
        """Hold a piece that was fed to the stream."""
        text = self._decoder.decode(piece, is_last)
        self.is_blank = self.is_blank and not text.strip()
        self._held += text

    def release(self) -> None:
        """Write what may be shown."""
        count = max(0, self._stream.releasable_chars - self._num_released)
        text, self._held = self._held[:count], self._held[count:]
        masked = self._stream.masked(self._num_released, self._num_released + len(text))
        self._num_released += len(text)
        sys.stdout.buffer.write((text if masked is None else masked).encode())
        sys.stdout.buffer.flush()

    def stop(self, decision: Decision) -> ExitCode:
        """Write the last that may be shown, then why there is no more."""
        self.release()
        if decision.message is not None:
            sys.stdout.buffer.write(decision.message.encode() + b"\n")
            sys.stdout.buffer.flush()
        if decision.error is not None:
            say(f"stopped: the guard could not judge ({decision.error})")
            return ExitCode.FAILURE
        if decision.detector is not None:
            where = (
                "before the answer began" if decision.side is Side.PROMPT else f"after {self._num_released} characters"
            )
            say(f"stopped {where}: the detector {decision.detector} blocks")
            return ExitCode.BLOCKED
        causes = [*([decision.category] if decision.category else []), *(f"rule {rule.id}" for rule in decision.rules)]
        what = ", ".join([str(decision.risk_level), *causes])
        if decision.position is None:
            found = "" if self._stream.prompt is None else f" ({describe_probabilities(self._stream.prompt)})"
            say(f"blocked before the answer began: the prompt is {what}{found}")
        else:
            found = describe_probabilities(self._stream.response)
            say(f"stopped after {self._num_released} characters, at token {decision.position}: {what} ({found})")
        return ExitCode.BLOCKED
