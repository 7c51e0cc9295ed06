"""One file, one format: reading arrays lazily, writing them, and nothing about networks."""
