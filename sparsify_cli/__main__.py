"""`python -m sparsify_cli`."""

from sparsify_cli.cli.app import run

if __name__ == "__main__":
    run()
