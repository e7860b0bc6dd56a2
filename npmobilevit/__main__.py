"""``python -m npmobilevit`` is the command ``npmobilevit``."""

import sys

from npmobilevit.cli import main

sys.exit(main())
