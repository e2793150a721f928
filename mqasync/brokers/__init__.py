"""One configured broker kept connected: what the core does once for all transports; no handler is called."""
