"""How runs of one recipe name each other."""

import re

# A run or a sweep, and what of it when not its final weights: ${train.x}@ema.
RUN_REFERENCE = re.compile(r"\$\{train\.([^}@]+)\}(@.+)?")
