"""`mcl-hf finetune` for launchers: `accelerate launch scripts/finetune_detection.py --recipe auto ...`."""

import sys

from mcl_hf.cli.finetune import main

if __name__ == "__main__":
    sys.exit(main())
