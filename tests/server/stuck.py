"""A service in which something hangs: `python -m tests.server.stuck FOLDER PORT WHAT` serves until told to stop."""

import sys
import threading
import time
from pathlib import Path

from streamward.cli.serve import serve
from streamward.cli.stopping import end_now
from streamward.moderation.moderator import Moderator
from streamward.policy import Policy
from streamward.server.audit import AuditLog
from streamward.server.keys import KeyStore
from streamward.server.state import open_state
from tests.moderation.guards import stream_guard
from tests.server.services import settings

DRAIN_S = 1.0


def hang(*_: object) -> None:
    """Tell the parent, and never return."""
    print("hanging", flush=True)
    threading.Event().wait()


def main() -> None:
    """Serve until told to stop."""
    folder, port, what = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    config = settings(folder, limits={"drain_s": DRAIN_S}, listen={"port": port})
    guard = stream_guard(max_batch_tokens=64)
    step = guard.engine.step

    def slow_step() -> object:
        print("stepping", flush=True)
        time.sleep(0.02)
        return step()

    state = open_state(config, moderator=Moderator(guard, policy=Policy.load("strict")))
    match what:
        case "step":
            guard.engine.step = hang  # type: ignore[method-assign, assignment]
        case "audit":
            AuditLog._write = hang  # type: ignore[method-assign, assignment]
        case "keys":
            KeyStore.find = hang  # type: ignore[method-assign, assignment]
        case "text":
            guard.engine.step = slow_step  # type: ignore[method-assign, assignment]
    code = 0 if serve(config, state) else 1
    end_now(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
