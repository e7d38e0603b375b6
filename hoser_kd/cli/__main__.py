"""`python -m hoser_kd.cli`: the same as `hoser-kd`."""

import sys

from hoser_kd.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
