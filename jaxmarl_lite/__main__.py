"""Entry point of ``python -m jaxmarl_lite``: the command line."""

import sys

from jaxmarl_lite.cli.main import main

sys.exit(main())
