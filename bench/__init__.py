"""Figures of mqasync as ratios against hand-written clients, measured in one run; no test, no threshold."""
