"""The life of a message on one queue: received, handled, settled; no broker's protocol, no command."""
