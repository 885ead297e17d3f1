"""The tests; a package so that strategies and oracles are imported by name."""
