"""``python -m willfit``."""

import sys

from willfit.cli.main import main

sys.exit(main())
