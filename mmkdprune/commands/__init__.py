"""What the subcommands of ``mmkdprune`` do; :mod:`mmkdprune.cli` reads their arguments."""
