"""Whether this host can serve, known before anything is loaded."""
