"""One program for each framework whose losses bench/losses.py counts: a task as its documentation shows it first."""
