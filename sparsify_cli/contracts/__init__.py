"""The promises: reading this folder is reading the architecture."""
