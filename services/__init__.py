"""Examples that run: `mqasync run services.hello`, `mqasync run services.cth`. They import nothing but mqasync."""
