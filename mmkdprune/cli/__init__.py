"""What a user types: the command ``mmkdprune``, its subcommands and their arguments.

One module a subcommand, which reads the command line and hands it to :mod:`mmkdprune.commands`. Nothing here imports
PyTorch or MMEngine before a subcommand runs: ``--help`` answers at once.
"""
