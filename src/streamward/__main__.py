"""`python -m streamward`."""

import sys

from streamward.cli.main import main

sys.exit(main())
