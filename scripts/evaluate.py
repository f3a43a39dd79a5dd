"""`mcl-hf evaluate` for launchers: `accelerate launch scripts/evaluate.py runs/detector --data coco --split val`."""

import sys

from mcl_hf.cli.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
