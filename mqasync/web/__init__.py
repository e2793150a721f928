"""What `mqasync run --http` serves: health, metrics and the live page; nothing of it runs without that option."""
