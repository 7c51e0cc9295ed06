"""Where images come from: folders, lists, archives, shards, and made-up ones.

A new file here registers itself.
"""

from passl.utils.discovery import import_modules

import_modules(__name__, __path__)
