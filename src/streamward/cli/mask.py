"""`streamward mask`: pass on a text with personal data and keys masked, as it comes."""

import argparse
import codecs
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, get_args

from streamward.cli.common import ExitCode, say
from streamward.detectors.config import DetectorConfig, DetectorType
from streamward.detectors.finding import DetectorAction, DetectorTarget
from streamward.errors import InputError
from streamward.suggestions import suggest

if TYPE_CHECKING:
    from streamward.detectors.detectors import Detectors
    from streamward.detectors.masker import Masked

_READ_BYTES = 65536
_TYPES = tuple(name for name in get_args(DetectorType) if name not in ("regex", "words"))
_EXAMPLES = """\
examples:
  tail -f app.log | streamward mask --detectors email,ip,api_key
  cat letter.txt | streamward mask --policy policy.toml --target prompt
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "mask",
        help="pass on a text with personal data and keys masked",
        description=(
            "Reads a text on standard input and writes it to standard output as it comes, with what detectors find"
            " masked. No guard is loaded. A finding whose action is block ends the output with exit code 3."
        ),
        epilog=_EXAMPLES,
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--detectors", metavar="D", help=f"types, with commas between them (default: {','.join(_TYPES)})"
    )
    source.add_argument("--policy", metavar="P", help="run the [[detectors]] of a policy instead")
    parser.add_argument(
        "--target",
        choices=[str(each) for each in DetectorTarget],
        default=str(DetectorTarget.RESPONSE),
        help="with --policy: what the text is, which decides which detectors read it (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="the text is JSON and stays valid JSON")
    parser.add_argument("--findings", action="store_true", help="write each finding to standard error, as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Mask standard input."""
    from streamward.detectors.masker import Masker  # imported late, because other commands do not need it
    from streamward.detectors.vault import Vault

    masker = Masker(_detectors(arguments), vault=Vault(), is_json=arguments.json)
    for piece in _pieces():
        if not _write(masker.feed(piece), tells=arguments.findings):
            return ExitCode.BLOCKED
    return ExitCode.ALLOWED if _write(masker.finish(), tells=arguments.findings) else ExitCode.BLOCKED


def _detectors(arguments: argparse.Namespace) -> "Detectors":
    from streamward.detectors.detectors import Detectors
    from streamward.policy import Policy

    if arguments.policy is not None:
        policy = Policy.load(arguments.policy)
        if not policy.detectors:
            raise InputError(f"policy {policy.name!r} has no [[detectors]], so there is nothing to mask")
        return Detectors.compile(policy.detectors).for_target(DetectorTarget(arguments.target))
    names: Sequence[str] = _TYPES if arguments.detectors is None else arguments.detectors.split(",")
    for name in names:
        if name not in _TYPES:
            raise InputError(f"--detectors has an unknown type; known are {', '.join(_TYPES)}{suggest(name, _TYPES)}")
    return Detectors.compile([DetectorConfig.parse({"type": name}, source="--detectors") for name in names])


def _pieces() -> Iterator[str]:
    """Yield standard input as it arrives."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    while data := os.read(sys.stdin.fileno(), _READ_BYTES):
        yield decoder.decode(data)
    yield decoder.decode(b"", final=True)


def _write(masked: "Masked", *, tells: bool) -> bool:
    """Write what is decided; return whether it may go on."""
    blocked = next((each for each in masked.findings if each.action is DetectorAction.BLOCK), None)
    kept = masked.findings if blocked is None else masked.findings[: masked.findings.index(blocked) + 1]
    if tells:
        for each in kept:
            print(json.dumps(asdict(each)), file=sys.stderr)
    sys.stdout.buffer.write(masked.before_block.encode("utf-8", "replace"))
    sys.stdout.buffer.flush()
    if blocked is not None:
        say(f"stopped at character {blocked.start}: the detector {blocked.id} blocks")
    return blocked is None
