"""Shelf: how weights are ranked."""
