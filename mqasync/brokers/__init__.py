"""Keeps the configured brokers connected, and does once what all transports need; no handler is called."""
