"""`python -m mcl_hf.cli ...` is `mcl-hf ...`."""

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
