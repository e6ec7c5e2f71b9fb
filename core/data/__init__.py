"""One reader per data format; each ends in a `Dataset`."""
