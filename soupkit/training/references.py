"""How runs of one recipe name each other."""

import re

RUN_REFERENCE = re.compile(r"\$\{train\.([^}@]+)\}")
