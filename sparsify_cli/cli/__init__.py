"""Words in, words out: the only importer of typer and rich."""
