"""A service to be killed: `python -m tests.server.durable FOLDER` serves on a loopback port that it prints."""

import sys
from pathlib import Path

from tests.server.services import open_service, served


def main() -> None:
    """Serve until killed."""
    with open_service(Path(sys.argv[1])) as service, served(service.app) as address:
        print(address, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
