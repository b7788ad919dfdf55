"""`python -m musiq_ref`, the same as `musiq-ref`."""

import sys

from musiq_ref.cli import main

sys.exit(main())
