"""``python -m i2i``: the command line, for launchers such as ``torchrun -m i2i train ...``."""

import os
import sys

if sys.path[0] in ("", os.getcwd()) and not os.environ.get("PYTHONPATH"):
    del sys.path[0]  # a file torch.py in the folder where it is started is not meant

from i2i.cli import main

if __name__ == "__main__":
    main()
