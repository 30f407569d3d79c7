"""`python -m workbench VERB`."""

import sys

from workbench.cli import main

sys.exit(main())
