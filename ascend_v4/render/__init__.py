"""Pure generators: a plan in, text out."""
