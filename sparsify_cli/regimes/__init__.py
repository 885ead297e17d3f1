"""Shelf: how one training step and the masks evolve."""
