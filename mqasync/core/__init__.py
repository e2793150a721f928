"""The life of a message on one queue: received, handled, settled; no protocol, no command."""
