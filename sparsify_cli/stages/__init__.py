"""One verb each: the path of data, no printing."""
