"""Shelf: kinds of checkpoint files, where their tensors lie and how they are written again."""
