"""Floor 6: the subcommands of `xraygpt`, one file each. `main` imports only the one that is asked for."""
