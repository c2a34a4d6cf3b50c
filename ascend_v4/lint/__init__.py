"""Judge and rewrite other people's launch scripts with the rows that write our own."""
