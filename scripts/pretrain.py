"""`mcl-hf pretrain` for launchers: `accelerate launch scripts/pretrain.py --recipe demo --output-dir runs/demo`."""

import sys

from mcl_hf.cli.pretrain import main

if __name__ == "__main__":
    sys.exit(main())
