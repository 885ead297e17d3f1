"""`sparsify`, and `python -m sparsify_cli`."""

import sys

from sparsify_cli.cli.loading import loading


def run() -> None:
    """The console command `sparsify`."""
    with loading():
        from sparsify_cli.cli.app import main
    sys.exit(main())


if __name__ == "__main__":
    run()
