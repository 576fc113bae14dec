"""Programs around the book: its environment, a host, a PDF, measurements."""
