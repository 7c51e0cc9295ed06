"""``python -m passl`` is ``passl``."""

import sys

from passl.cli.main import main

sys.exit(main())
