"""How a running process is: health, reports, traces, what holds up its event loop; nothing is changed by it."""
