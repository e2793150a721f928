"""One handler and what goes in and out of it: bodies, arguments, outputs, outcome; nothing is received or settled."""
