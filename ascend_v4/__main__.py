"""``python -m ascend_v4`` is the same as ``ascend-v4``."""

import sys

from .cli import main

sys.exit(main())
