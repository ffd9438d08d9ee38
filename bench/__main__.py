"""`python -m bench [NAME…]`: all benches, or those named."""

import os
import sys

from bench import publish, ready, scale, shim, stream, trust

BENCHES = {
    "publish": publish.main,
    "ready": ready.main,
    "scale": scale.main,
    "shim": shim.main,
    "stream": stream.main,
    "trust": trust.main,
}

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed program has its modules compiled
for wanted in sys.argv[1:] or list(BENCHES):
    print(f"{wanted}:", file=sys.stderr)
    BENCHES[wanted]()
