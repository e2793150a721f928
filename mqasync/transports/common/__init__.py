"""Code that several transports share: URLs, TLS, envelopes, a buffer for brokers that push; no broker's library."""
