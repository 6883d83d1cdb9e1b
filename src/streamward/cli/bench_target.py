"""The service that `bench-serve` measures, in a process of its own: with the embedded guard, or with none."""

import sys
from pathlib import Path

from streamward.cli.serve import serve
from streamward.errors import ConfigError


def main(settings: str, guard: str) -> None:
    """Serve until told to stop.

    Raises:
        ConfigError: `guard` is not `embedded` or `none`.
    """
    from streamward.bench.unguarded import unguarded
    from streamward.observability import set_up_logging
    from streamward.policy import Policy
    from streamward.server.config import ServeConfig
    from streamward.server.state import open_state

    if guard not in ("embedded", "none"):
        raise ConfigError(f"guard is {guard!r}; it must be embedded or none")
    config = ServeConfig.load(Path(settings))
    set_up_logging(config.log.level, is_json=False)
    moderator = None
    if guard == "none":
        moderator = unguarded(Policy.load("strict"), max_workers=config.limits.max_in_flight)
    serve(config, open_state(config, moderator=moderator))


if __name__ == "__main__":
    main(*sys.argv[1:])
