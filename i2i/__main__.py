"""``python -m i2i``: the command line, for launchers such as ``torchrun -m i2i train ...``."""

from i2i.cli import main

if __name__ == "__main__":
    main()
