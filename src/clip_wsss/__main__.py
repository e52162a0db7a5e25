"""`python -m clip_wsss`: the command `clip-wsss`."""

import sys

from clip_wsss.cli import main

sys.exit(main())
