"""One program for each framework that bench/frameworks.py compares: as its user would write it, and measured alike."""
