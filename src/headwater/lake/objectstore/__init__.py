"""Where the lake's files lie."""
