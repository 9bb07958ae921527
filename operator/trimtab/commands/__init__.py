"""One module per command, each with `main(given) -> exit code`; imported only when the command is run."""
