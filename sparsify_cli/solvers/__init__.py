"""Shelf: methods that choose weights and repair the others in one go."""
