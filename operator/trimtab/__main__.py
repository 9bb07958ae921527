"""`python -m trimtab`, the same as the `trimtab` command."""

import sys

from trimtab.cli import main

sys.exit(main())
