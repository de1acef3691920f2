"""`python -m spreadflow.cli` is `spreadflow`."""

import sys

from spreadflow.cli.main import main

sys.exit(main())
