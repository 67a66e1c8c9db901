"""What the service shows in a browser, from its own files."""
