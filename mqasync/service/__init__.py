"""Modules found and run: discovery, start, drain; no protocol, no command line."""
