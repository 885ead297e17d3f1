"""What a person writes; no torch."""
