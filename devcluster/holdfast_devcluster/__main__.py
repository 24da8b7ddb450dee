import sys

from holdfast_devcluster.cli import main

sys.exit(main())
