"""Examples that the documentation refers to; not part of the package."""
