"""How a command line becomes a checked config, and what is said when it is wrong."""
