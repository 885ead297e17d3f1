"""Pure tensor functions: counting, allocating, viewing, measuring."""
