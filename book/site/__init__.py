"""The Sphinx extensions that make the pages, and what the pages are made of."""
